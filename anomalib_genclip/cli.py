# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The command ``genclip``, in addition to anomalib's own command line.

A subcommand is a function of :data:`COMMANDS`, whose arguments and docstring define its options and help. Heavy modules
are imported inside the functions, so that ``genclip --help`` is fast.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from . import __version__
from .prediction.settings import RunSettings
from .settings import TileSettings
from .utils.files import find_config, list_configs
from .utils.messages import counted, quiet_screen
from .utils.settings import PositiveInt

_RESUMED = {"predict", "benchmark", "ablation", "reproduce"}
_WITH_ERRORS, _MOST_ERRORS = 10, 125  # exit statuses; those above stand for signals


def benchmark(config: str) -> int:
    """Compare GenCLIP with other models on the same images and write one table.

    An interrupted run resumes when it is started again; finished jobs are not repeated. Status 1: no model was tested.

    Args:
        config: Settings with models, training and test data: a path, or a name of `genclip config`, as demonstration.
    """
    from .pipelines.comparison import compare, read_settings

    tables = compare(read_settings(find_config(config)))
    return 0 if any("error" not in row for row in tables.rows) else 1


def ablation(
    weights: str,
    data: str,
    results_dir: str = "results/ablation",
    accelerator: str = "auto",
    seed: int = 42,
    isolate: bool = True,
    pretrained: str | None = None,
) -> int:
    """Test a trained GenCLIP without some of its parts: one branch, no class name filtering, single layers.

    Status 1: all tests failed.

    Args:
        weights: Trained model: a checkpoint (.ckpt), a prompts file (.safetensors), or tiny-demo.
        data: Settings file of a datamodule: a path, or a name of `genclip config`.
        results_dir: Folder for the table.
        accelerator: As in Lightning: auto, cpu, gpu.
        seed: Seed of the tests.
        isolate: Run each test in a process of its own.
        pretrained: CLIP weights, if the model was trained with a file that has been moved.
    """
    from .pipelines.comparison import ablate, read_settings

    table = ablate(weights, read_settings(find_config(data)), results_dir, accelerator, seed, isolate, pretrained)
    return 0 if any("images" in row for row in table.rows) else 1


def explain(
    weights: str,
    image: str,
    mask: str | None = None,
    class_name: str | None = None,
    out: str = "explanation.png",
    pretrained: str | None = None,
) -> None:
    """Explain the score of one image in a figure: each branch's map, and the class name after filtering.

    Args:
        weights: Trained model: a checkpoint (.ckpt), a prompts file (.safetensors), or tiny-demo.
        image: Image file.
        mask: File with the ground truth, if there is one.
        class_name: Class name of the image, such as "metal nut".
        out: Path of the figure.
        pretrained: CLIP weights, if the model was trained with a file that has been moved.
    """
    from .pipelines.explain import explain as draw

    print(draw(weights, image, mask, class_name, out, pretrained), out, sep="\n")  # the command's result


def reproduce(config: str = "reproduce") -> int:
    """Run the paper's protocols and write one table beside published results: needs the datasets and a GPU.

    Status 1: all protocols failed.

    Args:
        config: Settings file with the protocols: a path, or a name of `genclip config`.
    """
    from .pipelines.comparison import read_settings
    from .pipelines.reproduce import reproduce as run

    table = run(read_settings(find_config(config)))
    measured = [row for row in table.rows if row["source"] == "measured"]
    return 0 if any(row["image_AUROC"] is not None for row in measured) else 1


def predict(**settings: Any) -> int:  # noqa: ANN401  # those of RunSettings
    """Score one image or a folder of any size, and write a table of scores; an interrupted run resumes.

    Status with on_error=record: 10 more than the number of images that could not be used, at most 125, or 0 for none.
    """
    from .prediction.run import run

    outcome = run(RunSettings(**settings))
    images, anomalous, errors = (outcome.counts[name] for name in ("images", "anomalous", "errors"))
    result = outcome.table or "the last shard will write the table"
    print(f"{counted(images, 'image')}, {anomalous} anomalous, {errors} with errors: {result}")
    if outcome.skipped:
        print(f"Skipped, as no images: {', '.join(f'{count} {suffix}' for suffix, count in outcome.skipped.items())}")
    if settings.get("pictures", "none") != "none":
        print(f"Result images: {settings['out']}/pictures")
    for note in outcome.notes:
        print(note)
    if outcome.was_complete:
        print("The run was complete: there was nothing left to do.")
        return 0
    return min(_WITH_ERRORS + errors, _MOST_ERRORS) if errors else 0


def calibrate(
    weights: str,
    normal: str,
    out: str,
    false_alarm_rate: float = 0.01,
    k_shot: int = 0,
    few_shot_source: str | None = None,
    class_name: str | None = None,
    tiles: TileSettings | None = None,
    ignore_mask: str | None = None,
    pretrained: str | None = None,
) -> None:
    """Set thresholds from normal images alone, so that at most a chosen share of normal images raises an alarm.

    For example: genclip calibrate --weights prompts.safetensors --normal line3/good --out line3.safetensors

    Args:
        weights: Trained model: a checkpoint (.ckpt), a prompts file (.safetensors), tiny-demo, or an exported model.
        normal: Folder of normal images of one product.
        out: File for the result: a prompts file (.safetensors), with the references if there are some, or for an
            exported model one with the same suffix.
        false_alarm_rate: Share of the normal images that may raise a false alarm: at least 1 / (images + 1).
        k_shot: Reference images to draw; 0 keeps those of the weights.
        few_shot_source: Folder to draw them from, other images than the normal ones.
        class_name: Class name of the product, such as "metal nut".
        tiles: Tiles that large images are cut into, the default of later predictions.
        ignore_mask: A PNG of the shape of the images, in which white does not count; saved in the result. A folder with
            one of the same stem for each image is not saved.
        pretrained: CLIP weights; needed if the model was trained with a file that is not here.
    """
    from .inferencer import Inferencer
    from .pipelines.calibration import calibrate as find_thresholds

    inferencer = Inferencer(
        weights,
        class_name,
        pretrained=pretrained,
        tiles=tiles,
        ignore_mask=ignore_mask,
        k_shot=k_shot or None,
        few_shot_source=few_shot_source,
    )
    thresholds = find_thresholds(inferencer, normal, false_alarm_rate)
    inferencer.save(out)
    print(f"image_threshold {thresholds['image']:.4f}, pixel_threshold {thresholds['pixel']:.4f}: {out}")
    if ignore_mask is not None and Path(ignore_mask).is_dir():
        print(f"The masks in {ignore_mask} are not part of it: give ignore_mask again where it is used.")


def app(
    weights: str = "tiny-demo", pretrained: str | None = None, host: str = "127.0.0.1", port: PositiveInt = 7860
) -> None:
    """Show a page in the browser that scores images and explains the scores, until Ctrl+C.

    Args:
        weights: Trained model: a checkpoint (.ckpt), a prompts file (.safetensors), or tiny-demo.
        pretrained: CLIP weights; needed if the model was trained with a file that is not here.
        host: Address to listen on. 0.0.0.0 lets other machines use the page; it has no login.
        port: Port to listen on.
    """
    if find_spec("gradio") is None:
        msg = 'The page needs gradio: pip install gradio (or, in a checkout, pip install ".[app]").'
        raise ValueError(msg)
    from .app.server import serve

    serve(weights, pretrained, host, port)


def publish(
    weights: str,
    repo: str,
    report: str | None = None,
    license: str | None = None,  # noqa: A002  # the option's name
    out: str | None = None,
    dry_run: bool = False,
) -> None:
    """Publish a prompts file on the Hugging Face Hub, with a model card.

    For example: genclip publish prompts.safetensors --repo owner/name --dry_run

    Args:
        weights: Prompts file.
        repo: Repository as owner/name; created if it does not exist.
        report: File metrics.json of a test run, whose figures are put into the card.
        license: Identifier of the license, such as apache-2.0.
        out: Folder for prompts and card. Default: results/publish/<name>.
        dry_run: Only write the folder.
    """
    from .pipelines.publish import publish as write

    folder = out or f"results/publish/{repo.rpartition('/')[2]}"
    print(write(weights, repo, folder, report, license, upload=not dry_run))  # the command's result


def doctor() -> int:
    """Check the installation: versions, devices, CLIP weights, precision, and a self-test. Status 1: one has failed."""
    from .pipelines.doctor import examine

    return 0 if examine() else 1


def config(name: str | None = None) -> None:
    """Print the path of a settings file of this package; without a name, list all names.

    For example: anomalib train --config "$(genclip config quickstart)"

    Args:
        name: Name of a settings file.
    """
    print(find_config(name) if name else "\n".join(list_configs()))  # the command's result


COMMANDS: dict[str, Callable[..., int | None]] = {
    command.__name__: command
    for command in (predict, calibrate, benchmark, ablation, explain, app, reproduce, publish, doctor, config)
}
_FLAGS = {
    f"--{name}"
    for command in (RunSettings, *COMMANDS.values())
    for name, kind in get_type_hints(command).items()
    if kind is bool
}


def get_parser() -> ArgumentParser:
    """Build the parser of the command line, with a subcommand for each function of :data:`COMMANDS`."""
    description = "GenCLIP's commands, in addition to those of `anomalib`."
    parser = ArgumentParser(prog="genclip", description=description, version=__version__, exit_on_error=False)
    subcommands = parser.add_subcommands(dest="command", required=False)
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").partition("Args:")[0]
        own = ArgumentParser(description=" ".join(summary.split()), exit_on_error=False)
        if command is config:
            own.add_argument("name", nargs="?", help="Name of a settings file.")
        elif command is predict:
            own.add_class_arguments(RunSettings, as_group=False)
        elif command is publish:
            own.add_argument("weights", help="Prompts file.")
            own.add_function_arguments(command, as_group=False, skip={"weights"})
        else:
            own.add_function_arguments(command, as_group=False)
        subcommands.add_subcommand(name, own, help=summary.partition("\n")[0])
    return parser


def _with_flags(arguments: Sequence[str]) -> list[str]:
    """Write ``--regions`` as ``--regions=true``: jsonargparse has no plain flags."""
    following = [*arguments[1:], "--"]
    return [
        f"{name}=true" if name in _FLAGS and value.startswith("--") else name
        for name, value in zip(arguments, following, strict=False)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand of a command line, by default this process's, and return the status: 2 for invalid input."""
    parser = get_parser()
    arguments = _with_flags(sys.argv[1:] if arguments is None else arguments)
    try:
        args = parser.parse_args(arguments)
    except ArgumentError as error:
        command = " ".join(["genclip", *(name for name in arguments[:1] if name in COMMANDS)])
        # jsonargparse describes all that it has tried; the first line names the option, the last the value.
        first, *others = str(error).splitlines()
        text = " ".join([first, *map(str.strip, others[-1:])])
        print(f"{command}: error: {text}\nSee: {command} --help", file=sys.stderr)
        return 2
    if args.command is None:
        parser.print_help()
        return 0
    quiet_screen()
    try:
        status = COMMANDS[args.command](**args[args.command].as_dict()) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"genclip {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; it resumes when it is started again" if args.command in _RESUMED else ""
        print(f"genclip {args.command}: interrupted{hint}.", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
