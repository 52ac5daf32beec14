"""Compiled blocks: the same clip, one graph a kind, nothing compiled twice, nor in the next process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.passes.small_wan import SMALL, forward, relative, small_wan
from tests.tiny_parts import ROUTED, TRANSFORMER
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import cache_dir

from rushes.errors import ConfigError
from rushes.models.wan import Wan
from rushes.models.wan_blocks import Block
from rushes.ops.kv_cache import KVCache
from rushes.passes.base import ClipShape
from rushes.passes.compile import Compile
from rushes.passes.compile_cache import CompileCache
from rushes.passes.fp8 import Fp8Linears
from rushes.passes.plan import Plan
from rushes.passes.sparse import SparseAttention

MIXED = replace(ROUTED, num_layers=4, first_expert_layer=2)
"""Two dense blocks and two routed ones."""
SHAPE = ClipShape(latent_shape=(4, 2, 4, 6), text_len=5)
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("default")  # of the compiler


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RUSHES_CACHE", str(tmp_path / "cache"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def network() -> Wan:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Wan(MIXED).eval().requires_grad_(False)


def compiled(model: Wan, **settings: object) -> Wan:
    return Plan(passes=(Compile(**settings),)).apply("transformer", model)


@torch.no_grad()
def velocity(model: Wan, shape: ClipShape = SHAPE, seed: int = 0, **how: object) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    context = model.encode_text(
        torch.randn(shape.batch, shape.text_len, TRANSFORMER.text_dim, generator=generator)
    )
    latents = torch.randn(shape.batch, *shape.latent_shape, generator=generator)
    return model(latents, torch.rand(shape.batch, generator=generator) * 1000, context, **how)


def num_graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_equals_eager_with_one_graph_a_kind_and_none_after_warm_up(tmp_path: Path) -> None:
    model, plan = network(), Plan(passes=(Compile(uses_cache=False),))
    fast = plan.apply("transformer", network())
    plan.warm_up("transformer", fast, SHAPE)
    assert num_graphs() == 2
    for seed in (1, 2):
        torch.testing.assert_close(velocity(fast, seed=seed), velocity(model, seed=seed))
    again = plan.apply("transformer", network())
    velocity(again)
    plan.warm_up("transformer", again, SHAPE)
    assert num_graphs() == 2
    assert not counters["graph_break"]
    # A folder that cannot be written to costs the next process its time, and this one nothing.
    (tmp_path / "file").write_text("")
    CompileCache(tmp_path / "file").save(CPU, "a")


def test_a_new_shape_compiles_once_or_stays_eager() -> None:
    wide = replace(SHAPE, latent_shape=(4, 1, 4, 6))
    eager = compiled(network(), unseen="eager")
    torch.testing.assert_close(velocity(eager, wide), velocity(network(), wide), rtol=0, atol=0)
    assert num_graphs() == 0
    limited = compiled(network(), max_shapes=1, uses_cache=False)
    velocity(limited, wide)
    assert num_graphs() == 2
    torch.testing.assert_close(velocity(limited), velocity(network()), rtol=0, atol=0)
    assert num_graphs() == 2


def test_code_that_torch_dropped_is_compiled_again_beyond_its_own_limit() -> None:
    wide = replace(SHAPE, latent_shape=(4, 1, 4, 6))
    fast = compiled(network(), uses_cache=False)
    expected = [velocity(fast, shape) for shape in (SHAPE, wide)]
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=1):
        again = [velocity(fast, shape) for shape in (SHAPE, wide)]
    torch.testing.assert_close(again, expected)


def test_warm_up_compiles_every_phase_of_8_bit_and_sparse_blocks() -> None:
    """Of two blocks the first stays dense: one graph for it, and two for the other."""
    others = (SparseAttention(block=4, density=0.5), Fp8Linears(targets=("attn_out",)))
    config = replace(SMALL, num_layers=2)
    model = Plan(passes=others).apply("transformer", small_wan(config))
    plan = Plan(passes=(*others, Compile(uses_cache=False, max_shapes=1)))
    fast = plan.apply("transformer", small_wan(config))
    assert len(fast.phases) == 2
    plan.warm_up("transformer", fast, ClipShape(latent_shape=(4, 3, 8, 8), text_len=5))
    assert num_graphs() == 3
    for phase in fast.phases:
        assert relative(forward(fast, phase=phase), forward(model, phase=phase)) < 1e-2
    assert relative(forward(fast, phase=fast.phases[1]), forward(fast)) > 1e-4
    assert num_graphs() == 3


def test_causal_calls_stay_eager() -> None:
    model, fast = network(), compiled(network())
    caches = KVCache(), KVCache()
    for _ in range(2):
        outs = [
            velocity(each, cache=cache, write_cache=True)
            for each, cache in zip((model, fast), caches, strict=True)
        ]
        assert torch.equal(*outs)
    assert torch.equal(velocity(fast, causal=True), velocity(model, causal=True))
    assert num_graphs() == 0


def test_hooks_of_a_block_still_run() -> None:
    """What refills a noise expert behind its last forward."""
    fast, left = compiled(network(), unseen="eager"), []
    for layer, block in enumerate(fast.blocks):
        block.register_forward_hook(lambda *_, layer=layer: left.append(layer))
    velocity(fast)
    assert left == [0, 1, 2, 3]


def test_bad_settings_and_other_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="unseen is 'wait'; choose one of compile, eager"):
        Compile(unseen="wait")
    with pytest.raises(ConfigError, match="max_shapes is 0"):
        Compile(max_shapes=0)
    with pytest.raises(ConfigError, match="a Linear has no blocks"):
        Plan(passes=(Compile(),)).apply("transformer", torch.nn.Linear(1, 1))


CHILD = """
import sys, torch
from torch._dynamo.utils import counters
from tests.passes.test_compile import SHAPE, Compile, Plan, Wan, TRANSFORMER
torch.manual_seed(0)
plan = Plan(passes=(Compile(),))
model = plan.apply("transformer", Wan(TRANSFORMER).eval().requires_grad_(False))
plan.warm_up("transformer", model, SHAPE)
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


def without_graphs(folder: Path) -> Path:
    """torch's own cache as it is now but for the graphs: what C++ it has compiled need not be again."""
    folder.mkdir()
    here = Path(cache_dir())
    for entry in here.iterdir() if here.is_dir() else ():
        if entry.name not in ("fxgraph", "aotautograd"):
            (folder / entry.name).symlink_to(entry)
    return folder


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    found = []
    for number in range(2):
        own = {"TORCHINDUCTOR_CACHE_DIR": str(without_graphs(tmp_path / f"torch{number}"))}
        done = subprocess.run(
            [sys.executable, "-c", CHILD], capture_output=True, text=True, env={**os.environ, **own}
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found == [["0", "1"], ["1", "0"]]
    assert len(list((tmp_path / "cache" / "compiled").iterdir())) == 1


def test_a_key_says_what_code_is_for(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path)
    files = {cache.file(CPU, "a"), cache.file(CPU, "b"), cache.file(CPU)}
    assert len(files) == 3
    assert cache.file(CPU, "a") in files


@pytest.mark.parametrize("damage", [b"", b"rushes", b"rushes compiled code 1\n" + bytes(40)])
def test_a_damaged_or_foreign_file_counts_as_none(tmp_path: Path, damage: bytes) -> None:
    cache = CompileCache(tmp_path / "deep")
    assert not cache.load(CPU, "a")
    file = cache.file(CPU, "a")
    file.parent.mkdir()
    file.write_bytes(damage)
    assert not cache.load(CPU, "a")


def test_blocks_are_plain_without_the_pass() -> None:
    assert all(isinstance(block, Block) and "forward" not in vars(block) for block in network().blocks)
