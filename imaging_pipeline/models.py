"""Models at hand: list them, verify one, write other forms of its weights, seal it with a manifest."""

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Sequence

from imaging_pipeline.arguments import add_settings, carry_out, parser_for, settings_of
from imaging_pipeline.console import say, table
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import Bundle, Kind, describe, known_bundles
from imaging_pipeline.segment.lean import import_monai
from imaging_pipeline.segment.manifest import MANIFEST, check_manifest, write_manifest
from imaging_pipeline.segment.metadata import read_metadata
from imaging_pipeline.settings import Settings

EXAMPLES = """\
examples:
  imaging-pipeline models list
  imaging-pipeline models verify hippocampus_mr
  imaging-pipeline models verify hippocampus_mr --set models.backend=onnxruntime
  imaging-pipeline models export hippocampus_mr --to onnx    # models/hippocampus_mr/models/model.onnx
  imaging-pipeline models seal my_model                      # write its MANIFEST.sha256 as it stands

exit codes:
  0 done   1 verify found something missing   2 usage, settings or a model that cannot be used
"""

_CARDS = ("docs/README.md", "README.md")
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "docs/LICENSE", "docs/license.txt")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    arguments = command_line().parse_args(argv)
    warnings.simplefilter("ignore")  # of libraries about their own future
    return carry_out(_models, arguments)


def _models(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    if arguments.verb == "list":
        return _list(settings)
    if arguments.verb == "verify":
        return _verify(arguments.name, settings)
    return _seal(arguments.name, settings) if arguments.verb == "seal" else _export(arguments, settings)


def _list(settings: Settings) -> int:
    """One line a model, without torch; a model that cannot be used says why."""
    rows = []
    for path in known_bundles(settings.models):
        try:
            bundle = describe(path.name, settings.models)
        except PipelineError as error:
            rows.append((path.name, "", "", "", f"{error.code}: {error.message}"))
            continue
        forms = sorted({file.suffix for file in (path / "models").glob("model.*")}) or [bundle.weights[0].name]
        labels = ", ".join(label.name for label in bundle.labels[:4]) + ", ..." * (len(bundle.labels) > 4)
        sealed = "sealed" if (path / MANIFEST).is_file() else "no manifest"
        rows.append((bundle.name, bundle.version, labels, " ".join(forms), f"{sealed}, digest {bundle.digest[:16]}"))
    table(("model", "version", "labels", "weights", "state"), rows)
    return 0


def _verify(name: str, settings: Settings) -> int:
    """Every check of a model on a line of its own."""
    bundle = describe(name, settings.models)
    missing = 0
    for ok, text in (*_on_disk(bundle), *_in_use(bundle, settings)):
        say(f"{'ok     ' if ok else 'MISSING'}  {text}")
        missing += not ok
    return 1 if missing else 0


def _on_disk(bundle: Bundle) -> Iterator[tuple[bool, str]]:
    listed = check_manifest(bundle.path)
    yield listed is not None, f"manifest: {f'{len(listed)} files as listed' if listed is not None else MANIFEST}"
    yield True, f"digest: {bundle.digest}"
    yield True, f"labels: {', '.join(f'{label.index} {label.name}' for label in bundle.labels)}"
    card = next((file for file in _CARDS if (bundle.path / file).is_file()), None)
    yield card is not None, f"model card: {card or _CARDS[0]}"
    licence = next((file for file in _LICENCES if (bundle.path / file).is_file()), None)
    named = read_metadata(bundle.path).license if bundle.kind is Kind.MONAI else ""
    yield licence is not None, f"licence: {' '.join(filter(None, (licence or _LICENCES[0], named)))}"


def _in_use(bundle: Bundle, settings: Settings) -> Iterator[tuple[bool, str]]:
    """The model opened, and one forward pass."""
    import_monai()
    from imaging_pipeline.segment.engine import Engine

    start = time.perf_counter()
    engine = Engine(bundle, settings)
    opened = time.perf_counter() - start
    weights = ", ".join(f"{item.name} by {item.backend}" for item in bundle.weights)
    yield True, f"weights: {weights} opened on {engine.device} in {opened:.2f} s, keys and channels fit"
    for item in engine.foreign:
        yield True, f"transform: {item} runs as MONAI's own object"
    yield True, f"forward pass: {engine.try_out()}"


def _export(arguments: argparse.Namespace, settings: Settings) -> int:
    models = settings.models.model_copy(update={"backend": "torch", "ensemble": False})
    bundle = describe(arguments.name, models)
    import_monai()
    from imaging_pipeline.segment.convert import convert

    converted = convert(bundle, arguments.to)
    say(
        f"{converted.path}: largest difference {converted.largest_difference:.3g} "
        f"from {bundle.weights[0].name}, of scores that span {converted.score_range:.3g}"
    )
    if converted.sealed:
        say(f"{bundle.path / MANIFEST} brought up to date")
    return 0


def _seal(name: str, settings: Settings) -> int:
    path = next((path for path in known_bundles(settings.models) if name in (path.name, str(path))), None)
    if path is None:
        raise PipelineError(
            Code.MODEL_NOT_FOUND,
            f"no model {name!r} under models.trusted_dirs",
            "python -m imaging_pipeline.models list",
        )
    say(f"{path / MANIFEST}: {write_manifest(path)} files")
    return 0


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("models", __doc__, EXAMPLES)
    common = argparse.ArgumentParser(add_help=False)
    add_settings(common)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", parents=[common], help="models under models.trusted_dirs")
    for verb, text in (
        ("verify", "keys, digests, one forward pass, licence and card"),
        ("export", "write the weights in another form and compare it with the state dict"),
        ("seal", "write MANIFEST.sha256 for the model as it stands"),
    ):
        one = verbs.add_parser(verb, parents=[common], help=text)
        one.add_argument("name", metavar="NAME", help="name of a model, or its path")
        if verb == "export":
            one.add_argument(
                "--to", choices=("ts", "pt2", "onnx"), required=True, help="TorchScript, torch.export, ONNX"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
