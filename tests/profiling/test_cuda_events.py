"""Events as Kineto exports them of a GPU: who asked for each kernel, and what kind of work it is."""

from __future__ import annotations

from typing import Any

import pytest

from rushes.profiling.calls import Call, calls_of
from rushes.profiling.kinds import Place, kind_of_kernel
from rushes.profiling.kineto import Capture, read_capture
from rushes.profiling.operators import explained, raw_table
from rushes.profiling.replay import items_of
from rushes.profiling.rows import RowKey

MAIN, OTHER = 900, 901
KEY = RowKey(stage="denoise", part="conditional, high noise")
DECODE = RowKey(stage="vae_decode", part="other latents")
BF16 = "c10::BFloat16"
ATTENTION = (
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_cga1x1x1_kernel0_0"
)
CONV = (
    "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_warpgroupsize1x1x1"
)
ELEMENTWISE = "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, 3>"


class Events:
    """Writes what Kineto would."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, category: str, name: str, ts: float, dur: float, tid: int = MAIN, **args: Any) -> None:
        pid = 0 if category.startswith(("kernel", "gpu_")) else 900
        event = {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur}
        self.events.append({**event, "args": args})

    def op(self, name: str, ts: float, dur: float, number: int, tid: int = MAIN, dims: Any = ()) -> None:
        shapes = {"Input Dims": list(dims), "Input type": [BF16] * len(dims)}
        self.add("cpu_op", name, ts, dur, tid, **{"External id": number, "Ev Idx": number, **shapes})

    def launch(self, call: str, ts: float, number: int, correlation: int, tid: int = MAIN) -> None:
        category = "cuda_driver" if call.startswith("cu") and not call.startswith("cuda") else "cuda_runtime"
        args = {"External id": number, "cbid": 211, "correlation": correlation}
        self.add(category, call, ts, 4.0, tid, **args)
        flow = {"ph": "s", "id": correlation, "pid": 900, "tid": tid, "ts": ts, "cat": "ac2g", "name": "ac2g"}
        self.events.append(flow)

    def work(
        self, name: str, ts: float, dur: float, number: int, correlation: int, category: str = "kernel"
    ) -> None:
        args = {"External id": number, "device": 0, "context": 1, "stream": 7, "correlation": correlation}
        self.add(category, name, ts, dur, 7, **args)
        self.events.append(
            {
                "ph": "f",
                "id": correlation,
                "pid": 0,
                "tid": 7,
                "ts": ts,
                "cat": "ac2g",
                "name": "ac2g",
                "bp": "e",
            }
        )

    def capture(self) -> Capture:
        return read_capture({"traceEvents": self.events, "baseTimeNanoseconds": 1})


@pytest.fixture
def events() -> Events:
    """A forward of a millisecond in a self-attention module, as spans and modules annotate it."""
    made = Events()
    made.add("user_annotation", "span:0", 0.0, 1000.0, **{"External id": 1})
    made.add("gpu_user_annotation", "span:0", 50.0, 900.0, 7, **{"External id": 1})
    made.add("user_annotation", "module:|Wan", 5.0, 990.0, **{"External id": 2})
    made.add("user_annotation", "module:blocks.3.self_attn|SelfAttention", 10.0, 980.0, **{"External id": 3})
    return made


def calls(capture: Capture, key: RowKey = KEY) -> list[Call]:
    return calls_of(capture, {0: (key, 1.0)})


def test_kernels_belong_to_the_outermost_operator(events: Events) -> None:
    heads = [1, 40, 32760, 128]
    events.op("aten::linear", 20.0, 60.0, 4, dims=([1, 100, 64], [64, 64]))
    events.op("aten::addmm", 25.0, 50.0, 5, dims=([64], [100, 64], [64, 64]))
    events.launch("cudaMemsetAsync", 30.0, 5, 101)
    events.launch("cuLaunchKernelEx", 40.0, 5, 102)
    events.op("aten::scaled_dot_product_attention", 100.0, 60.0, 6, dims=(heads, heads, heads))
    events.op("aten::_scaled_dot_product_cudnn_attention", 105.0, 50.0, 7, dims=(heads, heads, heads))
    events.launch("cuLaunchKernelEx", 110.0, 7, 103)
    events.op("aten::copy_", 200.0, 40.0, 8, dims=([16], [16]))
    events.launch("cudaMemcpyAsync", 210.0, 8, 104)
    events.work("Memset (Device)", 60.0, 2.0, 5, 101, "gpu_memset")
    events.work("nvjet_tst_256x128_64x4_2x1_v_bz_coopA_bias_TNT", 62.0, 100.0, 5, 102)
    events.work(ATTENTION, 170.0, 300.0, 7, 103)
    events.work("Memcpy DtoD (Device -> Device)", 480.0, 3.0, 8, 104, "gpu_memcpy")
    capture = events.capture()
    found = calls(capture)
    assert [(call.name, call.kind, call.device_us) for call in found] == [
        ("aten::linear", "QKV and out", 102.0),
        ("aten::scaled_dot_product_attention", "self-attention", 300.0),
        ("aten::copy_", "copies", 3.0),
    ]
    assert explained(found, {KEY: 1.0}, capture) == 1.0
    assert [item.node.name for item in items_of(capture)] == [
        "cudaMemsetAsync",
        "cuLaunchKernelEx",
        "cuLaunchKernelEx",
        "cudaMemcpyAsync",
    ]
    # The product's operations are the product's, not once more those of what prepares it.
    raw = {op.name: op.flops for op in raw_table(found, {KEY: 1.0}, is_async=True)}
    assert raw["Memset (Device)"] == 0
    assert raw["nvjet_tst_256x128_64x4_2x1_v_bz_coopA_bias_TNT"] == 2 * 100 * 64 * 64


def test_a_launch_that_was_not_recorded_is_found_by_its_operator(events: Events) -> None:
    """As those of driver calls that Kineto does not listen to, or whose clock differs."""
    events.op("aten::conv3d", 20.0, 60.0, 4, dims=([1, 96, 6, 34, 34], [96, 96, 3, 3, 3]))
    events.op("aten::cudnn_convolution", 30.0, 40.0, 5)
    events.work("Memset (Device)", 60.0, 2.0, 5, 777, "gpu_memset")
    events.launch("cudaLaunchKernel", 90.0, 5, 102)  # outside of every operator by some microseconds
    events.work(CONV, 100.0, 50.0, 5, 102)
    capture = events.capture()
    (call,) = calls(capture, DECODE)
    assert (call.name, call.device_us) == ("aten::conv3d", 52.0)
    assert call.kind.startswith("conv3d")
    assert explained([call], {DECODE: 1.0}, capture) == 1.0


def test_another_threads_work_belongs_to_what_was_open_meanwhile(events: Events) -> None:
    events.op("aten::mul", 300.0, 30.0, 9, tid=OTHER, dims=([8], [8]))
    events.launch("cudaLaunchKernel", 310.0, 9, 105, tid=OTHER)
    events.work(ELEMENTWISE, 330.0, 20.0, 9, 105)
    events.launch("cudaLaunchKernel", 400.0, 0, 106, tid=OTHER)
    events.work("triton_per_fused__to_copy_add_mean_mul_pow_rsqrt_0", 410.0, 10.0, 0, 106)
    events.op("aten::add", 500.0, 30.0, 10, tid=OTHER, dims=([8], [8]))  # asks for nothing
    capture = events.capture()
    found = calls(capture)
    assert [(call.name, call.place.modules[-1].split("|")[1], call.device_us) for call in found] == [
        ("aten::mul", "SelfAttention", 20.0),
        ("triton_per_fused__to_copy_add_mean_mul_pow_rsqrt_0", "SelfAttention", 10.0),
    ]
    assert explained(found, {KEY: 1.0}, capture) == 1.0


def test_compiled_code_is_not_one_operator(events: Events) -> None:
    events.op("Torch-Compiled Region: 0/0", 20.0, 500.0, 4)
    events.op("## Call CompiledFxGraph fabc ##", 30.0, 400.0, 5)
    events.op("aten::mm", 40.0, 40.0, 6, dims=([100, 64], [64, 64]))
    events.launch("cuLaunchKernelEx", 50.0, 6, 101)
    events.op("triton_poi_fused_add_convolution_mul_1", 100.0, 40.0, 7)
    events.launch("cuLaunchKernel", 110.0, 7, 102)
    events.op("aten::_scaled_dot_product_cudnn_attention", 200.0, 40.0, 8, dims=([1, 2, 64, 8],) * 3)
    events.launch("cuLaunchKernelEx", 210.0, 8, 103)
    events.work("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNN", 60.0, 40.0, 6, 101)
    events.work("triton_poi_fused_add_convolution_mul_1", 150.0, 10.0, 7, 102)
    events.work(ATTENTION, 250.0, 70.0, 8, 103)
    capture = events.capture()
    found = calls(capture)
    assert [(call.name, call.kind, call.device_us) for call in found] == [
        ("aten::mm", "products (compiled)", 40.0),
        ("triton_poi_fused_add_convolution_mul_1", "fused elementwise (compiled)", 10.0),
        ("aten::_scaled_dot_product_cudnn_attention", "self-attention", 70.0),
    ]
    assert explained(found, {KEY: 1.0}, capture) == 1.0


def test_a_replayed_graph_is_told_by_its_kernels(events: Events) -> None:
    events.launch("cudaGraphLaunch", 20.0, 3, 101)
    for index, name in enumerate((ATTENTION, CONV, ELEMENTWISE)):
        events.work(name, 40.0 + 20 * index, 10.0, 3, 101)
    assert [call.kind for call in calls(events.capture())] == [
        "self-attention",
        "conv (compiled)",
        "fused elementwise (compiled)",
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("nvjet_tst_192x192_64x4_1x2_h_bz_coopB_TNT", "products (compiled)"),
        (
            "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x64_tn>",
            "products (compiled)",
        ),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "products (compiled)"),
        ("triton_tem_fused_addmm_gelu_2", "products (compiled)"),
        ("triton_red_fused_native_layer_norm_convolution_3", "fused elementwise (compiled)"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64>>", "self-attention"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "conv (compiled)"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<OpaqueType<2u>, 4>", "copies"),
        ("void at::native::upsample_nearest2d_nhwc_out_frame<c10::BFloat16>", "resample"),
        ("void at::native::vectorized_layer_norm_kernel<float, float>", "fused elementwise (compiled)"),
    ],
)
def test_kernel_names(name: str, kind: str) -> None:
    assert kind_of_kernel(name, Place(stage="denoise", part="conditional", modules=())) == kind
