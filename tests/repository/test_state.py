"""An instance as JSON: what was written can be read, whatever it is called."""

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as some

from manager.domain.instance import Instance, InstanceType, Service, ServiceType, Status
from manager.repository.state import decode, encode

SECOND = timedelta(seconds=1)
SERVICES = some.builds(Service, some.sampled_from(ServiceType), some.text(), some.integers(1, 65535), some.text())
MOMENTS = some.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=some.just(UTC))
INSTANCES = some.builds(
    Instance,
    id=some.uuids(),
    type=some.sampled_from(InstanceType),
    hostname=some.text(),
    timeout=some.integers(1, 86_400).map(lambda seconds: seconds * SECOND),
    created_at=MOMENTS.map(lambda moment: moment.replace(microsecond=0)),
    created_revision=some.integers(1, 2**62),
    updated_revision=some.integers(1, 2**62),
    labels=some.dictionaries(some.text(), some.text(), max_size=3),
    parent=some.none() | some.uuids(),
    services=some.lists(SERVICES, max_size=3).map(tuple),
    death=some.none(),
    last_seen=some.none(),
    status=some.sampled_from((Status.HEALTHY, Status.STALE)),
    digest=some.just(b""),
)


@given(INSTANCES)
def test_what_was_written_can_be_read(one: Instance) -> None:
    assert decode(one.id, json.loads(encode(one))) == one
