"""`randygpt merge`: the average of what several models learned since a common base."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.card import bits_cell
from randygpt.cli.flags import Json, Quiet, Relays, check_file_path
from randygpt.cli.merge_forks import choose_forks
from randygpt.cli.obtain import obtain, obtain_release
from randygpt.cli.output import byte_progress, emit, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.trust_list import TrustList
    from randygpt.checkpoint.merge import Merged
    from randygpt.merging import MergeSource, ModelMerge
    from randygpt.training.text import Text

EXAMPLE = "Example: randygpt merge alice/poems bob/poems --eval test.txt --out both"


def merge(
    out: Annotated[Path, typer.Option(metavar="PREFIX", help="Write PREFIX.bin and PREFIX.json.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="2 to 16 models that were trained from one base: files, or releases (fetched if not installed).",
            autocompletion=installed.complete_or_file,
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model that all were trained from; default: the nearest one that their releases have in common.",
            autocompletion=installed.complete_or_file,
        ),
    ] = None,
    forks: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Merge the newest forks of this release instead of named models; needs --trusted.",
            autocompletion=installed.complete_or_file,
        ),
    ] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="With --forks: only forks by authors on your trust list.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --forks: merge without asking.")] = False,
    weights: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Share of each model, such as 2,1,1; default: equal shares.")
    ] = "",
    scale: Annotated[
        str, typer.Option(metavar="X", help="Go X times the averaged change away from the base, up to 4.")
    ] = "1",
    robust: Annotated[
        bool,
        typer.Option(
            "--robust",
            help="Clip changes to the median size, and leave out models that point away from the others.",
        ),
    ] = False,
    eval_: Annotated[
        Path | None,
        typer.Option("--eval", metavar="TEXT", help="Compare base, models and merge on this text, in bits per byte."),
    ] = None,
    relay: Relays = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge models that were trained from one base.

    The result has no optimizer state. Its bytes depend on the models, the base and the options only, so everybody who
    merges the same releases gets the same file.
    """
    from randygpt.checkpoint.save import save_checkpoint
    from randygpt.merging import ModelMerge
    from randygpt.model.merge import MergeRule

    home, shown = Home.from_environment(), not (as_json or quiet)
    if models and forks:
        raise CallerError("--forks excludes models: name the models, or the release whose forks to merge")
    if not (models or forks):
        raise CallerError("name the models to merge, or the release whose forks to merge with --forks")
    if models and (trusted or yes):
        raise CallerError("--trusted and --yes are for --forks: leave them out")
    if forks and (base or weights):
        raise CallerError("--forks excludes --base and --weights: name the models instead")
    target = _target(out)
    text = _read_text(eval_) if eval_ else None
    if forks:
        release, found = choose_forks(home, forks, relay, trusted=trusted, yes=yes, quiet=quiet)
        base, models = release.id.hex(), [each.id.hex() for each in found]
    rule = MergeRule.parse(len(models or ()), weights=weights, scale=scale, robust=robust)
    common, inputs = _find_sources(home, base, models or [], relay, shown=shown)
    model_merge = ModelMerge(base=common, inputs=tuple(inputs), rule=rule)
    if not quiet:
        _note_revoked(home, [common, *inputs])
    with byte_progress("merging", shown=shown) as on_progress:
        merged = model_merge.run(on_progress)
    figures = _Figures.measure(model_merge, merged, text, shown=shown) if text else None
    save_checkpoint(target, merged.checkpoint, model_merge.sidecar(merged))
    result = _as_json(model_merge, merged, target, figures)
    emit(as_json, result, _as_text(model_merge, merged, target, installed.open_store(home)[1], figures))
    if not (quiet or model_merge.is_repeatable):
        print_stderr("files that are not releases cannot be named as inputs when the merge is published")


def _find_sources(
    home: Home, base: str | None, models: "Sequence[str]", relay: list[str] | None, *, shown: bool
) -> "tuple[MergeSource, list[MergeSource]]":
    """Return the base and the inputs; raise CallerError if they do not fit, and what `obtain` raises."""
    from randygpt.merging import check_bases, find_base

    inputs = [obtain(home, which, relay, shown=shown) for which in models]
    store, _ = installed.open_store(home)
    if base is None:
        return obtain_release(home, find_base(store, inputs), relay, shown=shown), inputs
    common = obtain(home, base, relay, shown=shown)
    check_bases(store, common, inputs)
    return common, inputs


def _target(out: Path) -> Path:
    """Return the checkpoint to write; raise CallerError if it or its sidecar exists."""
    from randygpt.checkpoint.sidecar import sidecar_path

    prefix = check_file_path(out)
    path = prefix.with_name(f"{prefix.name.removesuffix('.bin')}.bin")
    if path.name == ".bin":
        raise CallerError(f"{out}: not a file name")
    for each in (path, sidecar_path(path)):
        if each.exists():
            raise CallerError(f"{each} exists already: choose another --out")
    return path


def _note_revoked(home: Home, sources: "Sequence[MergeSource]") -> None:
    """Print which releases their authors revoked, as far as this machine knows; raise StoreError."""
    from distribution.seen_versions import SeenVersions

    seen = SeenVersions(home.folder)
    for each in sources:
        if each.release and each.id in seen.seen(each.release.author, each.release.name).revoked:
            print_stderr(f"its author revoked {each.title}")


def _read_text(path: Path) -> "Text":
    from randygpt.training.text import Text

    return Text.find(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """Bits per byte of base, inputs and merge on one text."""

    base: float
    inputs: tuple[float, ...]
    merged: float

    @classmethod
    def measure(cls, model_merge: "ModelMerge", merged: "Merged", text: "Text", *, shown: bool) -> "_Figures":
        """Evaluate all models on one text; raise CallerError if it is empty, and InvalidModelFile."""
        from randygpt.language_model import LanguageModel, from_weights
        from randygpt.model.decoder import Decoder

        def models() -> Iterator[LanguageModel]:
            for each in (model_merge.base, *model_merge.inputs):
                file = each.file()
                yield from_weights(file.path, file.config, file.tokenizer)
            checkpoint = merged.checkpoint
            decoder = Decoder.from_flat(checkpoint.config, checkpoint.weights)
            yield LanguageModel(decoder=decoder, tokenizer=model_merge.base.file().tokenizer)

        found, total = list[float](), (len(model_merge.inputs) + 2) * text.size
        with byte_progress(f"evaluating on {text.source}", shown=shown) as update:
            for index, model in enumerate(models()):
                before = index * text.size
                evaluation = model.evaluate(text, on_progress=lambda done, before=before: update(before + done, total))  # type: ignore[misc]
                found.append(evaluation.bits_per_byte)
        return cls(base=found[0], inputs=tuple(found[1:-1]), merged=found[-1])

    def verdict(self, titles: "Sequence[str]") -> str:
        """Return in words whether merging helped; `titles` are those of base and inputs."""
        others = (self.base, *self.inputs)
        best, title = min(zip(others, titles, strict=True))
        if self.merged < best:
            return f"merging helped: {best - self.merged:.4f} bits per byte below the best of the others"
        return f"merging did NOT help: {title} alone is {self.merged - best:.4f} bits per byte lower"


def _as_json(
    model_merge: "ModelMerge", merged: "Merged", target: Path, figures: "_Figures | None"
) -> dict[str, object]:
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    inputs = []
    for each, reason in zip(model_merge.inputs, merged.reasons, strict=True):
        inputs.append(_source_json(each) | {"left_out": bool(reason), "reason": reason})
    return {
        "out": str(target),
        "sha256": digest,
        "base": _name_of(model_merge.base),
        "inputs": inputs,
        "eval": {"base": figures.base, "inputs": list(figures.inputs), "merged": figures.merged} if figures else None,
    }


def _source_json(source: "MergeSource") -> dict[str, object]:
    from relay_client.nip19 import encode_npub

    return {"release": _name_of(source), "author": encode_npub(source.release.author) if source.release else None}


def _name_of(source: "MergeSource") -> str:
    """Return the id of a release, or `sha256:` and the hash of a file."""
    return source.id.hex() if source.release else f"sha256:{source.id.hex()}"


def _as_text(
    model_merge: "ModelMerge", merged: "Merged", target: Path, trusted: "TrustList", figures: "_Figures | None"
) -> str:
    def title(source: "MergeSource") -> str:
        return installed.release_title(source.release, trusted) if source.release else str(source.info.path)

    titles = [title(each) for each in (model_merge.base, *model_merge.inputs)]
    whys = ("", *merged.reasons, "")
    labels = ("base", *("left out" if reason else "merged" for reason in merged.reasons), "result")
    texts = [f"{text}: {why}" if why else text for text, why in zip((*titles, str(target)), whys, strict=True)]
    following = f"next      randygpt publish {target}"
    if figures is None:
        return "\n".join([*(f"{label:<10}{text}" for label, text in zip(labels, texts, strict=True)), following])
    values = (figures.base, *figures.inputs, figures.merged)
    rows = [f"{label:<10}{bits_cell(value)}  {text}" for label, value, text in zip(labels, values, texts, strict=True)]
    return "\n".join(["          bits per byte", *rows, figures.verdict(titles), following])
