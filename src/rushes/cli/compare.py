"""`rushes compare`: two clips beside each other."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rushes.profiling.compare_video.compare import FileComparison
    from rushes.profiling.quality.clips import Comparison

VIDEO_ENDINGS = (".mp4", ".webm")


@click.command(short_help="Compare two clips: figures, a side-by-side video, a heat map.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("comparison.mp4"),
    show_default=True,
    help="the side-by-side video (.mp4 or .webm); the heat map goes beside it as .png",
)
@click.option(
    "--floor",
    type=click.Path(path_type=Path),
    help="A made once more with another kernel, dtype or compile setting: its figures stand beside B's",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def compare(a: Path, b: Path, output: Path, floor: Path | None, as_json: bool) -> None:
    """Compare clip B with clip A, which must have the same size, frames per second and length.

    Prints the figures and, last, the paths of the side-by-side video and of the heat map.
    """
    check_paths(a, b, output)

    from rushes.profiling.compare_video.compare import compare_files

    found = compare_files(a, b, output, floor=floor)
    if as_json:
        click.echo(json.dumps(to_json(found)))
        return
    show(found)
    click.echo(os.fsencode(found.video))
    click.echo(os.fsencode(found.heat_map))


def check_paths(a: Path, b: Path, output: Path) -> None:
    """Raises `click.UsageError` when nothing can be written there."""
    from rushes.errors import OutputError
    from rushes.stages.contact_sheet import check_sheet
    from rushes.stages.video_encode import check_output

    if output.suffix not in VIDEO_ENDINGS:
        raise click.UsageError(f"{output}: name it {' or '.join(VIDEO_ENDINGS)}")
    if output.resolve() in (a.resolve(), b.resolve()):
        raise click.UsageError(f"{output}: is one of the clips to be compared")
    try:
        check_output(output)
        check_sheet(output.with_suffix(".png"))
    except OutputError as error:
        raise click.UsageError(str(error)) from error


def to_json(found: FileComparison) -> dict[str, Any]:
    """As plain data; an infinite PSNR, of equal clips, is null."""
    return {
        "comparison": _finite(asdict(found.comparison)),
        "floor": None if found.floor is None else _finite(asdict(found.floor)),
        "video": str(found.video),
        "heat_map": str(found.heat_map),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def show(found: FileComparison) -> None:
    """A table of the figures; the noise floor stands beside each where it is known."""
    from rushes.cli.tables import print_table

    columns = [_figures(found.comparison)]
    header = ["", "a against b"]
    if found.floor is not None:
        columns.append(_figures(found.floor))
        header.append("noise floor")
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    print_table(header, rows)


def _figures(comparison: Comparison) -> dict[str, str]:
    from rushes.profiling.quality.pixels import FLIP_MISSING

    worst = comparison.worst_frame
    flip = FLIP_MISSING.partition(": ")[2] if comparison.flip is None else f"{comparison.flip:.4f}"
    return {
        "PSNR": _db(comparison.psnr_db),
        "PSNR of the worst frame": f"{_db(comparison.frame_psnr_db[worst])} (frame {worst})",
        "SSIM": f"{comparison.ssim:.4f}",
        "FLIP": flip,
        "motion, px a frame": f"{comparison.a.motion_px:.2f} -> {comparison.b.motion_px:.2f}",
        "flicker, grey levels": f"{comparison.a.flicker:.2f} -> {comparison.b.flicker:.2f}",
    }


def _db(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.2f} dB"
