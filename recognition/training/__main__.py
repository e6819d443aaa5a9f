"""python -m recognition.training --config NAME --pack FACES.npz [--teacher EMBEDDINGS.npz] ... --out FOLDER"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recognition.budget import load_profile
from recognition.training.config import CONFIGS
from recognition.training.data import Faces, hold_out, join, read_folder, read_pack, read_tar
from recognition.training.train import CHECKPOINT_EVERY_S, Run, validate

VALIDATION_IDENTITIES = 30
VALIDATION_FACES = 800


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recognition.training", description="Train a protected recognizer."
    )
    parser.add_argument(
        "--config",
        required=True,
        choices=sorted(CONFIGS),
        metavar="NAME",
        help="see recognition/training/config.py",
    )
    parser.add_argument(
        "--pack", type=Path, action="append", default=[], help="npz pack of aligned faces; repeat"
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        help="teacher embeddings, one per --pack, in order",
    )
    parser.add_argument(
        "--leave-out",
        default=None,
        metavar="MASK",
        help="name of a boolean mask in the packs: pictures not to use",
    )
    parser.add_argument(
        "--folder", type=Path, action="append", default=[], help="<identity>/<picture>; repeat"
    )
    parser.add_argument(
        "--tar", type=Path, action="append", default=[], help="tar shard of <identity>/<picture>; repeat"
    )
    parser.add_argument(
        "--encoded", action="store_true", help="decode pictures when they are shown: for sets beyond memory"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of this run; an interrupted run in it is resumed"
    )
    parser.add_argument(
        "--minutes", type=float, help="stop, and run the whole schedule, by the clock instead of by passes"
    )
    parser.add_argument("--passes", type=int, help="override the config's number of faces shown")
    parser.add_argument("--profile", type=Path, help="train on this frozen privacy profile from the start")
    parser.add_argument(
        "--initial", type=Path, help="start the network from another run's state.pt, or from a model's folder"
    )
    parser.add_argument(
        "--balanced", action="store_true", help="draw identities, then faces, instead of faces"
    )
    parser.add_argument(
        "--checkpoint-every", type=float, default=CHECKPOINT_EVERY_S, metavar="SECONDS", help="at most"
    )
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.teacher and len(options.teacher) != len(options.pack):
        parser.error("give one --teacher for each --pack, in the same order")
    if not (options.pack or options.folder or options.tar):
        parser.error("give faces: --pack, --folder or --tar")
    return options


def read_faces(options: argparse.Namespace) -> Faces:
    teachers = options.teacher or [None] * len(options.pack)
    parts = [
        read_pack(pack, teacher=teacher, leave_out=options.leave_out, encoded=options.encoded)
        for pack, teacher in zip(options.pack, teachers, strict=True)
    ]
    parts += [read_folder(folder, encoded=options.encoded) for folder in options.folder]
    if options.tar:
        parts.append(read_tar(options.tar, encoded=options.encoded))
    return join(parts)


def main() -> int:
    options = arguments()
    console = Console(stderr=True)
    config = CONFIGS[options.config]
    if options.passes:
        config = replace(config, passes=options.passes)
    if options.balanced:
        config = replace(config, balanced=True)
    with console.status("reading faces"):
        training, validation = hold_out(
            read_faces(options), identities=VALIDATION_IDENTITIES, seed=config.seed
        )
    profile = load_profile(options.profile) if options.profile else None
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if options.device == "cuda" else options.device
    run = Run(
        config,
        training,
        options.out,
        device=device,
        minutes=options.minutes,
        profile=profile,
        initial=options.initial,
    )
    if run.passes:
        console.print(f"resumed at {run.passes:,} faces")
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(config.name, total=1000)

        def report(current: Run, parts: dict[str, float]) -> None:
            figures = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
            rate = current.passes / max(1e-9, current.seconds)
            progress.update(
                bar,
                completed=1000 * current.share_done(),
                description=f"{current.passes:,} faces {rate:.0f}/s {figures}",
            )

        run.train(report, checkpoint_every_s=options.checkpoint_every)
    last: dict[str, object] = {"config": config.name, "passes": run.passes, "seconds": round(run.seconds)}
    if run.rank == 0:
        if run.profile is not None:
            for profile in (run.profile, *run.also):
                name = "profile" if profile is run.profile else profile.name
                (options.out / f"{name}.json").write_text(profile.to_json(), encoding="utf-8")
        if len(validation):
            last |= validate(run, validation.take(slice(0, VALIDATION_FACES)))
        print(json.dumps(last))
    return 0


if __name__ == "__main__":
    sys.exit(main())
