"""One network on several devices, or made faster, gives the scores of the network itself."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends import Network, load_network
from imaging_pipeline.segment.backends import accelerate as acceleration
from imaging_pipeline.segment.backends.accelerate import GraphNetwork, accelerated
from imaging_pipeline.segment.backends.dealt import Dealt
from imaging_pipeline.segment.backends.sharded import Sharded, shard
from imaging_pipeline.segment.backends.state_dict import TorchNetwork
from imaging_pipeline.segment.device import claim_share, free_device_bytes, give_back_unused
from tests.bundles import WINDOW, random_network
from tests.conftest import ROOT

CPU = torch.device("cpu")
META = torch.device("meta")
CUDA = torch.device("cuda:0")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = {thread for thread in threading.enumerate() if thread.name.startswith("device")}
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("device") and thread not in before:
            thread.join(20)
            assert not thread.is_alive()


def replica() -> TorchNetwork:
    return TorchNetwork(random_network(0).eval().requires_grad_(False))


def windows(number: int, seed: int = 1) -> torch.Tensor:
    return torch.randn((number, 1, *WINDOW), generator=torch.Generator().manual_seed(seed))


class Watched:
    """A replica that notes what it is given, and fails as often as it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.batches: list[int] = []
        self.modes: list[tuple[bool, bool]] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.batches.append(batch.shape[0])
        self.modes.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        self.threads.add(threading.current_thread())
        if self.errors:
            raise self.errors.pop()
        return batch * 2


@pytest.mark.parametrize("number", [4, 8, 7, 6])
def test_two_replicas_give_the_scores_and_masks_of_one(number: int) -> None:
    dealt, alone, batch = Dealt([replica(), replica()], [CPU, CPU]), replica(), windows(number)
    with torch.inference_mode():
        scores, truth = dealt(batch), alone(batch)
    dealt.close()
    torch.testing.assert_close(scores, truth, rtol=1e-5, atol=1e-5)
    assert torch.equal(scores.argmax(dim=1), truth.argmax(dim=1))


def test_a_share_computed_on_another_device_is_the_same_to_the_last_bit() -> None:
    dealt, alone, batch = Dealt([replica(), replica()], [CPU, CPU]), replica(), windows(8)
    with torch.inference_mode():
        assert torch.equal(dealt(batch), torch.cat([alone(batch[:4]), alone(batch[4:])]))


def test_all_replicas_get_batches_of_one_shape_and_windows_stay_in_order() -> None:
    replicas = [Watched() for _ in range(3)]
    dealt = Dealt(replicas, [CPU] * 3)
    for number in (8, 7, 9, 1, 4, 2):
        batch = windows(number, seed=number)
        assert torch.equal(dealt(batch), batch * 2)
    assert [watched.batches for watched in replicas] == [[3, 3, 3, 1, 2, 1], [3, 3, 3, 2, 1], [3, 3, 3]]
    assert [len(watched.threads) for watched in replicas] == [1, 1, 1]


def test_replicas_keep_the_mode_of_their_caller() -> None:
    watched = Watched()
    dealt = Dealt([watched], [CPU])
    dealt(windows(1))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        dealt(windows(1))
    assert watched.modes == [(False, False), (True, True)]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("kernel")])
@pytest.mark.parametrize("place", [0, 1])
def test_an_error_of_one_replica_surfaces_as_itself_and_the_next_batch_works(error: Exception, place: int) -> None:
    replicas = [Watched(), Watched()]
    replicas[place].errors.append(error)
    dealt = Dealt(replicas, [CPU, CPU])
    with pytest.raises(type(error)) as raised:
        dealt(windows(4))
    assert raised.value is error
    assert [watched.batches for watched in replicas] == [[2], [2]]
    assert torch.equal(dealt(windows(3)), windows(3) * 2)
    dealt.close()  # the error that pytest keeps holds the replicas by its traceback


def test_threads_start_with_the_first_windows_and_end_with_the_network() -> None:
    def alive() -> int:
        return sum(thread.name.startswith("device") for thread in set(threading.enumerate()) - others)

    others = set(threading.enumerate())  # networks that other tests have opened stay open
    dealt = Dealt([Watched(), Watched()], [CPU, CPU])
    assert alive() == 0
    dealt(windows(2))
    assert alive() == 2
    dealt.close()
    assert alive() == 0
    with pytest.raises(RuntimeError):
        dealt(windows(2))
    with pytest.raises(ValueError, match="1 networks for 2 devices"):
        Dealt([replica()], [CPU, CPU])


def unet(**changes: object) -> torch.nn.Module:
    arguments = {"channels": (4, 8, 16), "strides": (2, 2), "num_res_units": 2, "norm": "batch", **changes}
    return UNet(spatial_dims=3, in_channels=1, out_channels=3, **arguments)


def dynunet(**changes: bool) -> torch.nn.Module:
    return DynUNet(3, 1, 3, kernel_size=[3] * 4, strides=[1, 2, 2, 2], upsample_kernel_size=[2] * 3,
                   filters=[4, 8, 8, 16], **changes)  # fmt: skip


def plain_conv_unet() -> torch.nn.Module:
    package = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    conv = torch.nn.Conv3d
    return package.PlainConvUNet(
        1, 3, (4, 8, 16), conv, 3, (1, 2, 2), 2, 3, 2, conv_bias=True, norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True}, nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )  # fmt: skip


NETWORKS = {
    "UNet": unet,
    "UNet of plain convolutions": lambda: unet(num_res_units=0, norm="instance"),
    "BasicUNet": lambda: BasicUNet(3, 1, 3, features=(4, 4, 8, 8, 16, 4), norm="batch"),
    "SegResNet": lambda: SegResNet(
        3, 4, 1, 3, blocks_down=(1, 1, 2), blocks_up=(1, 1), norm=("GROUP", {"num_groups": 2})
    ),
    "DynUNet": dynunet,
    "DynUNet with residuals": lambda: dynunet(res_block=True, deep_supervision=True),
    "PlainConvUNet": plain_conv_unet,
}


def built(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().eval().requires_grad_(False)


def layers(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    return {name: layer for name, layer in module.named_modules() if any(
        item is not None for item in (*layer._parameters.values(), *layer._buffers.values()))}  # fmt: skip


def first_tensor(output: object) -> torch.Tensor:
    while not isinstance(output, torch.Tensor):
        output = next(iter(output))  # type: ignore[call-overload]
    return output


@pytest.mark.parametrize("window", [None, (1, *WINDOW)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_shards_gives_the_scores_of_the_whole(name: str, window: Sequence[int] | None) -> None:
    whole, parts, batch = built(name), shard(built(name), [CPU, CPU], window), windows(2)
    with torch.inference_mode():
        assert torch.equal(parts(batch), first_tensor(whole(batch)))


def passed(module: torch.nn.Module) -> dict[str, list[torch.device]]:
    """Fills, while the module runs, with the devices of what its layers got and gave."""
    seen: dict[str, list[torch.device]] = {}

    def note(name: str) -> object:
        return lambda _, inputs, output: seen.setdefault(name, []).extend((inputs[0].device, output.device))

    for name, layer in layers(module).items():
        layer.register_forward_hook(note(name))
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_computes_where_it_was_placed(name: str) -> None:
    module = built(name)
    parts = shard(module, [CPU, META], (1, *WINDOW))
    assert isinstance(parts, Sharded)
    seen = passed(module)
    with torch.inference_mode(), pytest.raises(NotImplementedError, match="Cannot copy out of meta"):
        parts(windows(1))  # every layer runs; only the last step, back to the windows' device, cannot
    assert all(set(devices) == {parts.places[name]} for name, devices in seen.items())
    order = list(seen)
    assert list(map(parts.places.get, order)) == sorted(map(parts.places.get, order), key=str)
    for name, layer in layers(module).items():
        assert {tensor.device for tensor in layer.state_dict().values()} >= {parts.places[name]}


@pytest.mark.parametrize("n_devices", [1, 2, 3, 8])
def test_shares_are_consecutive_and_as_even_as_layers_allow(n_devices: int) -> None:
    module = torch.nn.Sequential(*(torch.nn.Conv3d(8, 8, 3) for _ in range(6)))
    devices = [torch.device("meta", number) for number in range(n_devices)]
    parts = shard(module, devices)
    assert isinstance(parts, Sharded)
    numbers = [devices.index(device) for device in parts.places.values()]
    assert numbers == sorted(numbers)
    assert max(numbers.count(number) for number in range(n_devices)) == -(-6 // n_devices)


def test_layers_are_dealt_in_the_order_of_use_and_large_outputs_count() -> None:
    module = built("PlainConvUNet")
    by_weight = shard(module, [CPU, META])
    by_use = shard(built("PlainConvUNet"), [CPU, META], (1, *WINDOW))
    assert isinstance(by_weight, Sharded)
    assert isinstance(by_use, Sharded)
    assert list(by_use.places) != list(by_weight.places)
    assert set(by_use.places) == set(by_weight.places)
    order = list(by_use.places)
    assert order.index("decoder.transpconvs.0") < order.index("decoder.stages.0.convs.0.conv")
    assert order.index("decoder.stages.0.convs.1.norm") < order.index("decoder.transpconvs.1")
    cuts = [list(parts.places.values()).count(CPU) for parts in (by_use, by_weight)]
    assert cuts[0] != cuts[1]


class InPlace(torch.nn.Module):
    """Joins by functions instead of layers, in place and not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv3d(1, 4, 3, padding=1)
        self.second = torch.nn.Conv3d(4, 4, 3, padding=1)
        self.offset = torch.nn.Parameter(torch.ones(1, 4, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.first(x)
        deep = self.second(skip)
        skip.add_(deep)
        deep += skip
        return torch.stack([skip, deep]).mean(dim=0) + self.offset.type_as(deep)


def test_skips_that_are_joined_by_functions_or_in_place_meet() -> None:
    torch.manual_seed(0)
    whole = InPlace().eval()
    truth = whole(windows(1)).detach()
    assert torch.equal(shard(whole, [CPU, CPU], (1, *WINDOW))(windows(1)), truth)
    placed = shard(InPlace(), [META, META], (1, *WINDOW))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta"):
        placed(windows(1))


@needs_cuda
@pytest.mark.gpu
def test_a_network_over_cpu_and_cuda_gives_the_scores_of_the_cpu() -> None:
    for name in NETWORKS:
        batch = windows(2)
        with torch.inference_mode():
            truth = first_tensor(built(name)(batch))
            for devices in ([CPU, CUDA], [CUDA, CPU]):
                scores = shard(built(name), devices, (1, *WINDOW))(batch)
                torch.testing.assert_close(scores, truth, rtol=1e-2, atol=1e-2)


def test_without_acceleration_the_network_is_itself() -> None:
    network = replica()
    assert accelerated(network, CPU) is network
    assert accelerated(network, CUDA, "off") is network


@pytest.mark.parametrize("how", ["graph", "tensorrt"])
def test_what_only_cuda_has_is_refused_on_the_cpu(how: acceleration.How) -> None:
    with pytest.raises(PipelineError) as refused:
        accelerated(replica(), CPU, how)
    assert refused.value.code is Code.DEVICE_NOT_FOUND


@pytest.mark.parametrize(
    ("how", "device", "word"),
    [("tensorrt", CUDA, "torch_tensorrt"), ("compile", CUDA, "triton"), ("compile", CPU, "g++")],
)
def test_a_compiler_that_is_missing_is_named_with_its_remedy(
    how: acceleration.How, device: torch.device, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration, "find_spec", lambda _: None)
    monkeypatch.setattr(acceleration.shutil, "which", lambda _: None)
    with pytest.raises(PipelineError) as refused:
        accelerated(replica(), device, how)
    assert refused.value.code is Code.EXTRA_MISSING
    assert word in refused.value.message
    assert "install" in refused.value.hint


def test_a_form_that_no_compiler_takes_is_refused(tmp_path: Path) -> None:
    torch.jit.trace(random_network(0).eval(), windows(1)).save(str(tmp_path / "model.ts"))
    for network in (load_network(tmp_path / "model.ts", CPU), Watched()):
        with pytest.raises(PipelineError) as refused:
            accelerated(network, CPU, "compile")
        assert refused.value.code is Code.MODEL_INVALID


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_compiled_network_gives_the_scores_of_the_network() -> None:
    module = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.InstanceNorm3d(2), torch.nn.ReLU()).eval()
    network, batch = TorchNetwork(module), windows(2)
    with torch.inference_mode():
        truth = network(batch)
        torch.testing.assert_close(accelerated(network, CPU, "compile")(batch), truth, rtol=1e-4, atol=1e-4)


def test_a_network_that_cannot_be_compiled_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> object:
        raise RuntimeError("no kernel")

    compiled = torch.compile(random_network(0).eval(), backend=broken)
    with pytest.raises(PipelineError, match="cannot compile the network") as refused:
        acceleration._Compiled(compiled, "compile")(windows(1))
    assert refused.value.code is Code.MODEL_INVALID


def test_a_recording_that_fails_says_why_and_the_scores_come_all_the_same() -> None:
    network = replica()
    recorded = GraphNetwork(network, CPU)  # there is nothing to record on the CPU
    for number in (2, 3, 3, 3):
        with torch.inference_mode():
            assert torch.equal(recorded(windows(number)), network(windows(number)))
    assert recorded.why_not.startswith("no CUDA graph of (3, 1, 16, 16, 16)")


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_replayed_graph_gives_the_scores_of_the_network(dtype: torch.dtype | None) -> None:
    network: Network = TorchNetwork(random_network(0).eval().to(CUDA))
    graph = accelerated(network, CUDA, "graph")
    assert isinstance(graph, GraphNetwork)
    for seed, number in enumerate((4, 4, 4, 1, 4)):
        batch = windows(number, seed).to(CUDA)
        with torch.inference_mode(), torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            torch.testing.assert_close(graph(batch), network(batch), rtol=1e-3, atol=1e-3)
    assert graph.why_not == ""
    assert graph._recorded is not None


def test_a_share_of_a_device_that_is_not_there_is_refused_and_the_cpu_is_left_alone() -> None:
    claim_share("cpu", 0.5)
    give_back_unused()
    with pytest.raises(PipelineError, match="device-not-found"):
        claim_share("cpu,cuda:99", 0.5)


@needs_cuda
def test_a_process_keeps_to_its_share_and_the_estimate_knows_it() -> None:
    claim_share("cuda:0", 0.25)
    try:
        total = torch.cuda.mem_get_info(CUDA)[1]
        assert free_device_bytes(CUDA) <= total / 4
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 2, dtype=torch.uint8, device=CUDA)
    finally:
        claim_share("cuda:0", 1.0)


INTEROP = """
import torch
from imaging_pipeline.segment.device import prepare
from imaging_pipeline.settings import SegmentSettings
cpu, settings = torch.device("cpu"), SegmentSettings()
if {late}:
    torch.jit.wait(torch.jit.fork(torch.ones, 2))
prepare(cpu, settings, 2)
prepare(cpu, settings, 1)
print(torch.get_num_threads(), torch.get_num_interop_threads())
"""


def test_a_task_has_the_threads_of_its_cores_and_none_beside_them() -> None:
    def says(late: int) -> str:
        command = [sys.executable, "-c", INTEROP.format(late=late)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert says(late=0) == "1 1"
    assert says(late=1).split()[0] == "1", "work that has begun is no reason to fail"
