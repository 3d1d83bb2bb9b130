"""PostService: metrics, taken in at once and stored soon."""

from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from manager.domain.metrics import GpuSample, LlmSample, Post, ProxySample, SystemSample
from manager.pb import instance_manager_pb2 as pb
from manager.pb import instance_manager_pb2_grpc as grpc_pb
from manager.samples import Samples
from manager.wire import decode

Context = aio.ServicerContext[Any, Any]


class PostService(grpc_pb.PostServiceServicer):
    """Never waits for the database."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    async def PostProxyMetrics(self, request: pb.ProxyMetrics, context: Context) -> Empty:
        return self._post(ProxySample, request)

    async def PostSystemMetrics(self, request: pb.SystemMetrics, context: Context) -> Empty:
        return self._post(SystemSample, request)

    async def PostGpuMetrics(self, request: pb.GpuMetrics, context: Context) -> Empty:
        return self._post(GpuSample, request)

    async def PostLlmMetrics(self, request: pb.LlmMetrics, context: Context) -> Empty:
        return self._post(LlmSample, request)

    def _post(self, kind: type[Any], request: Any) -> Empty:
        self._samples.post(Post(kind, [decode.sample(kind, request)]))
        return Empty()
