"""What Prometheus asks over HTTP: this server's meters, and where the services of the fleet are."""

import re
from collections.abc import Callable
from time import monotonic

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from manager.domain.filter import Filter
from manager.domain.instance import Instance, InstanceType, Service, ServiceType
from manager.domain.refusals import InvalidRequest
from manager.repository import census, history, listing
from manager.repository.database import Readers, refusal_of
from manager.wire.decode import host, member_by_name, several

COUNTED_FOR = 15.0


class Metrics:
    """The page of meters. The fleet is counted at most every 15 s, however many ask."""

    def __init__(self, registry: CollectorRegistry, readers: Readers) -> None:
        self._registry = registry
        self._readers = readers
        self._instances = Gauge(
            "im_instances", "living instances, as this manager has counted them", ["type", "status"], registry=registry
        )
        self._due = 0.0

    async def show(self, request: Request) -> Response:
        """GET /metrics."""
        try:
            await self._count()
        except Exception as error:
            if refusal_of(error) is None:  # without the database, all the rest is worth knowing above all
                raise
        encode, kind = _encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": kind})

    async def _count(self) -> None:
        if monotonic() < self._due:
            return
        self._due = monotonic() + COUNTED_FOR
        async with self._readers.snapshot() as connection:
            counted = await census.take(connection)
        for (kind, status), number in counted.items():
            self._instances.labels(kind.name, status.name.lower()).set(number)


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """What suits whoever asks; the plain one where a version is named that is none."""
    try:
        return choose_encoder(accept)
    except TypeError:
        return choose_encoder("")


class Discovery:
    """The targets of Prometheus' http_sd: every service of a living instance, as it is now."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def show(self, request: Request) -> Response:
        """GET /sd/prometheus, all or some: `?service_type=...&type=...&hostname=...`, each as often as wanted."""
        wanted = _wanted(request)
        targets: list[dict[str, object]] = []
        async with self._readers.snapshot() as connection:
            head = await history.head(connection)
            async for each in listing.living(connection, wanted, after=None, revision=head.revision):
                targets.extend(_target(each, one) for one in each.services if one.type in wanted.service_types)
        return JSONResponse(targets)


KEYS = ("service_type", "type", "hostname")
NAME = re.compile("[a-z_]{1,40}")  # what may be repeated to whoever asks


def _wanted(request: Request) -> Filter:
    for key in request.query_params:
        if key not in KEYS:
            raise InvalidRequest(
                key if NAME.fullmatch(key) else "query", f"is no filter of targets: they are {', '.join(KEYS)}"
            )
    given = request.query_params.getlist
    return Filter(
        service_types=tuple(member_by_name("service_type", ServiceType, each) for each in given("service_type"))
        or tuple(ServiceType),
        types=tuple(member_by_name("type", InstanceType, each) for each in given("type")),
        hostnames=several("hostname", given("hostname"), host),
    )


def _target(instance: Instance, service: Service) -> dict[str, object]:
    host = f"[{service.host}]" if ":" in service.host and not service.host.startswith("[") else service.host
    labels = {
        "instance_id": str(instance.id),
        "instance_type": instance.type.name,
        "service_type": service.type.name,
        "hostname": instance.hostname,
        "__meta_im_path": service.path,
        "__meta_im_parent_id": str(instance.parent or ""),
    }
    return {"targets": [f"{host}:{service.port}"], "labels": labels | _own_labels(instance)}


def _own_labels(instance: Instance) -> dict[str, str]:
    """Those of the instance, under names that Prometheus takes; for relabelling alone, since anything may be there."""
    return {f"__meta_im_label_{re.sub('[^a-zA-Z0-9_]', '_', key)}": value for key, value in instance.labels.items()}
