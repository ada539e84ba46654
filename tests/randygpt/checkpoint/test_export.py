"""Export and import: byte-for-byte round trips, and errors that name the file."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors
from support.command import only_line
from support.models import CONFIG, TOKENIZER, side_files, tiny_checkpoint, write_tiny

from randygpt.checkpoint.export import Format, export_model, import_model, read_export
from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import read_checkpoint, read_weights, write_checkpoint
from randygpt.checkpoint.sidecar import Sidecar, inspect_checkpoint, read_tokenizer
from randygpt.cli.main import run
from randygpt.errors import CallerError, InvalidModelFile
from randygpt.hf.files import rust_tensor_names, tensor_names
from randygpt.model.layout import tensor_shapes

LOSSES = {"train": 1.5, "val": None, "best_val": 1.625}


def put(folder: Path, *, with_optimizer: bool = True) -> Path:
    """Write a checkpoint and a sidecar with every field."""
    path = write_tiny(folder / "m.bin", seed=5, with_optimizer=with_optimizer)
    training = {"seed": 7, "precision": "bf16"}
    sidecar = Sidecar(config=CONFIG, tokenizer=TOKENIZER, name="né", iteration=5, losses=LOSSES, training=training)
    (folder / "m.json").write_bytes(sidecar.encode())
    return path


def export(folder: Path, kind: Format = "safetensors", **options: Any) -> Path:  # noqa: ANN401
    export_model(inspect_checkpoint(put(folder, **options)), folder / "export", kind)
    return folder / "export"


def metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    found: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return found


def test_checkpoint_round_trips_byte_for_byte(tmp_path: Path) -> None:
    folder = export(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "vocab.json",
    ]
    import_model(folder, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == (tmp_path / "m.bin").read_bytes()
    assert (tmp_path / "back.json").read_bytes() == (tmp_path / "m.json").read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "hf"])
def test_weights_only_checkpoint_round_trips_byte_for_byte(tmp_path: Path, kind: Format) -> None:
    folder = export(tmp_path, kind, with_optimizer=False)
    assert not (folder / "optimizer.safetensors").exists()
    import_model(folder, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == (tmp_path / "m.bin").read_bytes()
    assert (tmp_path / "back.json").read_bytes() == (tmp_path / "m.json").read_bytes()


def test_hf_export_drops_optimizer_state(tmp_path: Path) -> None:
    checkpoint = import_model(export(tmp_path, "hf"), tmp_path / "back.bin")
    assert checkpoint.optimizer_state is None
    whole = (tmp_path / "m.bin").read_bytes()
    weights = 24 + 4 * CONFIG.parameter_count
    assert (tmp_path / "back.bin").read_bytes() == b"RGPT0002" + whole[8:weights]


def test_rust_checkpoint_round_trips(golden: Path, tmp_path: Path) -> None:
    path, vocab = golden / "xs_char_rgpt0003.bin", golden / "xs_char_vocab.json"
    export_model(inspect_checkpoint(path, vocab=vocab), tmp_path / "export", "safetensors")
    import_model(tmp_path / "export", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == path.read_bytes()


def test_folder_of_the_rust_projects_exporter_is_imported(golden: Path, tmp_path: Path) -> None:
    import_model(golden / "hf_export_xs", tmp_path / "m.bin")
    found = inspect_checkpoint(tmp_path / "m.bin")
    weights = read_weights(found.path, found.config)
    assert weights.size == 978_112
    digest = "685d1841cc206e3e25acda34c7aa0d4112bb5216e4bc1f5404d2eb169653c67a"
    assert hashlib.sha256(weights.astype("<f4").tobytes()).hexdigest() == digest
    assert found.tokenizer is not None
    assert found.tokenizer.to_json() == read_tokenizer(golden / "bpe2000_vocab.json").to_json()


def test_rust_form_of_tokenizer_and_tensor_names(tmp_path: Path) -> None:
    folder = export(tmp_path, "hf", with_optimizer=False)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER.to_json()), encoding="utf-8")
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"trained_iters": 8, "best_val_loss": 1.5}))
    ours, theirs = tensor_names(CONFIG), rust_tensor_names(CONFIG)
    arrays = load_file(folder / WEIGHTS)
    save_file({theirs[name]: arrays[ours[name]] for name in ours}, folder / WEIGHTS)
    checkpoint, sidecar = read_export(folder)
    assert np.array_equal(checkpoint.weights, tiny_checkpoint(seed=5).weights)
    assert (checkpoint.header.iteration, checkpoint.header.best_loss, sidecar.iteration) == (8, 1.5, 8)
    assert sidecar.tokenizer.to_json() == TOKENIZER.to_json()
    (folder / "config.json").write_text(json.dumps(config | {"trained_iters": [8]}))
    with pytest.raises(InvalidModelFile, match="metadata: "):
        read_export(folder)


def test_export_has_tensors_and_header_facts(tmp_path: Path) -> None:
    folder = export(tmp_path)
    arrays = load_file(folder / "model.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == tensor_shapes(CONFIG)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    flat = np.concatenate([arrays[name].ravel() for name in tensor_shapes(CONFIG)])
    assert np.array_equal(flat, tiny_checkpoint(seed=5).weights)
    facts = metadata(folder / "model.safetensors")
    assert (facts["iteration"], facts["step"], facts["best_loss"]) == ("5", "6", "2.5")
    for name, data in side_files().items():
        assert json.loads((folder / name).read_bytes()) == json.loads(data)


@pytest.mark.parametrize("best_loss", [float("inf"), float(np.float32(0.1)), 0.0])
def test_extreme_header_values_round_trip(tmp_path: Path, best_loss: float) -> None:
    path, checkpoint = tmp_path / "m.bin", tiny_checkpoint()
    header = replace(checkpoint.header, best_loss=best_loss, iteration=2**32 - 1, step=2**32 - 1)
    write_checkpoint(path, replace(checkpoint, header=header))
    for name, data in side_files().items():
        (tmp_path / name).write_bytes(data)
    export_model(inspect_checkpoint(path), tmp_path / "export", "safetensors")
    import_model(tmp_path / "export", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "back.json").read_bytes())["iteration"] == 2**32 - 1


def test_missing_metadata_means_untrained(tmp_path: Path) -> None:
    folder = export(tmp_path, with_optimizer=False)
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    checkpoint, sidecar = read_export(folder)
    assert checkpoint.header == CheckpointHeader(
        magic="RGPT0003", vocab_size=CONFIG.vocab_size, iteration=0, step=0, best_loss=float("inf")
    )
    assert (sidecar.name, sidecar.iteration, sidecar.losses) == ("", 0, {})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = export(tmp_path, with_optimizer=False)
    arrays = {name: torch.from_numpy(each) for name, each in load_file(folder / "model.safetensors").items()}
    save_tensors({name: each.to(dtype) for name, each in arrays.items()}, folder / "model.safetensors")
    checkpoint, _ = read_export(folder)
    expected = torch.from_numpy(tiny_checkpoint(seed=5).weights).to(dtype).float()
    assert np.array_equal(checkpoint.weights, expected)


@pytest.mark.parametrize("kind", ["safetensors", "hf"])
def test_export_refuses_a_folder_that_is_not_empty(tmp_path: Path, kind: Format) -> None:
    path = put(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    for name, words in (
        ("full", "not an empty"),
        ("m.json", "not an empty"),
        ("no/where", "parent folder does not exist"),
    ):
        with pytest.raises(CallerError, match=f"{name}.*{words}"):
            export_model(inspect_checkpoint(path), tmp_path / name, kind)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["full", "m.bin", "m.json"]
    assert [each.name for each in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_export_fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    assert (export(tmp_path) / "model.safetensors").is_file()


def test_invalid_checkpoint_leaves_no_folder(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    checkpoint.weights[7] = float("nan")
    write_checkpoint(put(tmp_path), checkpoint)
    with pytest.raises(InvalidModelFile, match=r"m\.bin: NaN or infinity in wte"):
        export_model(inspect_checkpoint(tmp_path / "m.bin"), tmp_path / "export", "hf")
    (tmp_path / "m.json").unlink()
    (tmp_path / "config.json").write_bytes(side_files()["config.json"])
    with pytest.raises(InvalidModelFile, match=r"m\.bin has no vocabulary"):
        export_model(inspect_checkpoint(tmp_path / "m.bin"), tmp_path / "export", "hf")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("name", ["back.bin", "back.json"])
def test_import_overwrites_nothing(tmp_path: Path, name: str) -> None:
    folder = export(tmp_path)
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(CallerError, match=f"{name} exists already"):
        import_model(folder, tmp_path / "back.bin")
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


Arrays = dict[str, np.ndarray[Any, Any]]
WEIGHTS = "model.safetensors"


def change(change_arrays: Callable[[Arrays], object], name: str = WEIGHTS) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        arrays = load_file(folder / name)
        change_arrays(arrays)
        save_file(arrays, folder / name)

    return damage


def set_metadata(**facts: str) -> Callable[[Path], None]:
    return lambda folder: save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, facts)


def rewrite(name: str, data: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def reshape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"n_embd": 8192, "n_layer": 256}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change(lambda arrays: arrays.pop("layer1.wk")), r"model\.safetensors: missing tensor layer1\.wk$"),
        (
            change(lambda arrays: [arrays.pop(f"layer1.{n}") for n in ("wk", "wq")]),
            r"missing tensor layer1\.wk and 1 more",
        ),
        (change(lambda arrays: arrays.update(extra=np.zeros(1))), r"model\.safetensors: unknown tensor extra"),
        (change(lambda arrays: arrays.update(wte=arrays["wte"].T.copy())), r"wte has shape \(16, 31\), not \(31, 16\)"),
        (change(lambda arrays: arrays.update(wpe=arrays["wpe"].astype(np.int32))), "wpe has type I32"),
        (change(lambda arrays: arrays["lm_head"].fill(np.nan)), r"model\.safetensors: NaN .* in lm_head"),
        (
            change(lambda arrays: arrays.update(wte=arrays["wte"].astype(np.float64) * 1e300)),
            r"model\.safetensors: NaN or infinity in wte",
        ),
        (
            change(lambda arrays: arrays["exp_avg_sq.wpe"].fill(np.inf), "optimizer.safetensors"),
            r"optimizer\.safetensors: NaN or infinity in wpe \(second moment\)",
        ),
        (
            change(lambda arrays: arrays["exp_avg_sq.wpe"].fill(-1), "optimizer.safetensors"),
            r"optimizer\.safetensors: negative second moment in wpe",
        ),
        (
            change(lambda arrays: arrays.clear(), "optimizer.safetensors"),
            r"optimizer\.safetensors: missing tensor exp_avg\.",
        ),
        (rewrite(WEIGHTS, b""), r"model\.safetensors: "),
        (rewrite(WEIGHTS, b"\xff" * 100), r"model\.safetensors: "),
        (rewrite("config.json", b"{}"), r"config\.json: .*lacks n_embd"),
        (rewrite("config.json", b"{"), r"config\.json: not JSON"),
        (rewrite("vocab.json", b'{"chars": 1}'), r"vocab\.json: "),
        (rewrite("vocab.json", b'{"chars": ["a", "b"]}'), "vocab_size 31 in config.json, 2 entries"),
        (reshape, r"model\.safetensors: missing tensor layer10\.fc1 and 1523 more"),
        (set_metadata(iteration="x"), r"model\.safetensors: metadata: "),
        (set_metadata(step="-1"), "metadata: (iter|step|best_loss) must be"),
        (set_metadata(iteration=str(2**32)), "metadata: (iter|step|best_loss) must be"),
        (set_metadata(best_loss="nan"), "metadata: (iter|step|best_loss) must be"),
        (set_metadata(beside="["), r"model\.safetensors: metadata: "),
        (set_metadata(beside="[]"), "metadata: beside is not a JSON object"),
        (set_metadata(beside='{"losses": {"val": "x"}}'), "metadata: the loss val"),
        (set_metadata(beside=r'{"name": "\ud800"}'), "metadata: name, losses or training"),
        (set_metadata(beside=r'{"training": {"a": ["\udc00"]}}'), "metadata: name, losses or training"),
        (set_metadata(beside=r'{"losses": {"\udc00": 1}}'), "metadata: name, losses or training"),
        (set_metadata(beside=f'{{"iteration": {"9" * 5_000}}}'), "metadata: Exceeds the limit"),
        (set_metadata(step="9" * 5_000), "metadata: Exceeds the limit"),
    ],
)
def test_invalid_export_is_refused_and_nothing_written(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = export(tmp_path)
    damage(folder)
    with pytest.raises(InvalidModelFile, match=message) as caught:
        import_model(folder, tmp_path / "back.bin")
    assert str(folder) in str(caught.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["export", "m.bin", "m.json"]


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "vocab.json"])
def test_missing_file_of_an_export_is_named(tmp_path: Path, name: str) -> None:
    folder = export(tmp_path)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name if name != "vocab.json" else "tokenizer.json"):
        import_model(folder, tmp_path / "back.bin")


def test_damaged_tokenizer_json_is_named_once(tmp_path: Path) -> None:
    folder = export(tmp_path, "hf")
    for data in (b"{}", b"{"):
        (folder / "tokenizer.json").write_bytes(data)
        with pytest.raises(InvalidModelFile, match=r"tokenizer\.json: ") as caught:
            read_export(folder)
        assert str(caught.value).count("tokenizer.json") == 1


def test_export_and_import_commands(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(at_home)
    assert run(["export", "--format", "hf", "m.bin", "for-hf", "--json"]) == 0
    exported = json.loads(only_line(capsys.readouterr().out))
    assert (exported["folder"], exported["format"]) == ("for-hf", "hf")
    assert sorted(exported["files"]) == sorted(path.name for path in (at_home / "for-hf").iterdir())
    assert run(["export", "m.bin", "plain"]) == 0
    assert "optimizer.safetensors" in only_line(capsys.readouterr().out)
    assert run(["import", "plain", "--json"]) == 0
    assert json.loads(only_line(capsys.readouterr().out)) == {
        "checkpoint": "plain.bin",
        "format": "RGPT0003",
        "moments": True,
        "parameters": CONFIG.parameter_count,
        "iteration": 5,
    }
    assert (at_home / "plain.bin").read_bytes() == (at_home / "m.bin").read_bytes()
    assert run(["import", "for-hf", "other.bin"]) == 0
    assert only_line(capsys.readouterr().out).startswith("other.bin: RGPT0002, weights only, ")
    assert run(["generate", "--model", "other.bin", "--max-tokens", "3", "the"]) == 0
    for words, message in (
        (("export", "m.bin", "plain"), "plain exists and is not an empty folder"),
        (("export", "m.bin", "x", "--format", "gguf"), "gguf"),
        (("export", "missing.bin", "x"), "no file and no installed release: 'missing.bin'"),
        (("import", "plain"), "plain.bin exists already"),
        (("import", "missing"), "missing/config.json: No such file"),
        (("import", "plain", "nowhere/x"), "nowhere/x: the folder nowhere does not exist"),
        (("import", "plain", ".bin"), "not a file name"),
    ):
        assert run(list(words)) == 2
        assert message in only_line(capsys.readouterr().err)


def test_fetched_release_can_be_exported(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (at_home / "release").mkdir()
    write_checkpoint(at_home / "release" / "story.bin", tiny_checkpoint())
    for name, data in side_files().items():
        (at_home / "release" / name).write_bytes(data)
    assert run(["export", "release", "out"]) == 0
    assert run(["import", "out", "story"]) == 0
    assert "story.bin" in capsys.readouterr().out
    assert (at_home / "story.bin").read_bytes() == (at_home / "release" / "story.bin").read_bytes()
    assert read_checkpoint(at_home / "story.bin", CONFIG).optimizer_state is not None


@pytest.mark.full
def test_imported_checkpoint_resumes_training(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (at_home / "train.txt").write_text("the quick brown fox\n" * 200, encoding="utf-8")
    common = ("--dim", "16", "--heads", "2", "--layers", "1", "--batch", "1", "--quiet")
    assert run(["train", "--iters", "2", *common]) == 0
    assert run(["export", "checkpoint.bin", "folder"]) == 0
    assert run(["import", "folder", "copy"]) == 0
    capsys.readouterr()
    for prefix in ("checkpoint", "copy"):
        assert run(["train", "--iters", "3", "--checkpoint", prefix, "--resume", *common]) == 0
        assert capsys.readouterr().err == ""
    assert (at_home / "copy.bin").read_bytes() == (at_home / "checkpoint.bin").read_bytes()
