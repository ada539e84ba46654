"""Files of models: checkpoints, sidecars, vocabularies, exports of other programs, inputs of merges."""

import json
from dataclasses import replace

from fuzz.files import HOME, put
from fuzz.oracle import Target, same, text_of

from randygpt.checkpoint.header import HEADER_SIZE, CheckpointHeader
from randygpt.checkpoint.merge import MergeFile, merge_files
from randygpt.checkpoint.merge_record import MergeRecord
from randygpt.checkpoint.rgpt import read_checkpoint, read_matrices, read_weights
from randygpt.checkpoint.sidecar import Sidecar, inspect_checkpoint, read_sidecar, read_tokenizer
from randygpt.hf.files import read_tokenizer_json
from randygpt.model.config import ModelConfig
from randygpt.model.merge import MergeRule
from randygpt.model.tokenizer import CharTokenizer, Tokenizer, tokenizer_from_json
from relay_client.errors import CallerError

_TOKENIZER = CharTokenizer(["<", ">", "a"])
_CONFIG = ModelConfig(n_embd=1, n_head=1, n_layer=1, vocab_size=3, block_size=2)
_BASE = CheckpointHeader(magic="RGPT0002", vocab_size=3, iteration=0, step=0, best_loss=1.5).encode() + bytes(80)
_TEXT = "a<|eos|>b\nc 🧪"


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise CallerError("no JSON") from None


def _header(data: bytes) -> None:
    """Read a header; the bytes after it are the size of the file."""
    header = CheckpointHeader.parse(data)
    same(data[:HEADER_SIZE], header.encode())
    header.infer_config(int.from_bytes(data[HEADER_SIZE : HEADER_SIZE + 5], "little"))


def _checkpoint(data: bytes) -> None:
    path = put("model/tiny.bin", data)
    checkpoint = read_checkpoint(path, _CONFIG)
    same(checkpoint.weights.tobytes(), read_weights(path, _CONFIG).tobytes())
    same(checkpoint.weights.tobytes(), b"".join(matrix.tobytes() for matrix in read_matrices(path, _CONFIG)))
    inspect_checkpoint(path, shape={"n_embd": 1, "n_head": 1, "n_layer": 1, "block_size": 2})


def _sidecar(data: bytes) -> None:
    put("sidecar/tiny.json", data)
    sidecar = read_sidecar(HOME / "sidecar" / "tiny.bin")
    if sidecar:
        again = Sidecar.from_json(json.loads(sidecar.encode()))
        same(sidecar.encode(), again.encode())
        same(replace(sidecar, tokenizer=_TOKENIZER), replace(again, tokenizer=_TOKENIZER))
        sidecar.bits_per_byte(1.5)
        sidecar.training_value("steps", 0)


def _vocabulary(data: bytes) -> None:
    _use(read_tokenizer(put("vocab.json", data)))


def _use(tokenizer: Tokenizer) -> None:
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    same(tokenizer.vocab, again.vocab)
    ids = tokenizer.encode(_TEXT)
    same(tokenizer.decode(ids.tolist()), again.decode(again.encode(_TEXT).tolist()))
    tokenizer.count_unknown(_TEXT)


def _config(data: bytes) -> None:
    config = ModelConfig.from_json(_json(data))
    same(config, ModelConfig.from_json(config.to_json("char")))
    _ = config.parameter_count, config.shape, config.name


def _tokenizer_json(data: bytes) -> None:
    """Read a tokenizer of an export; the first byte chooses the kind that its configuration names."""
    kind = (None, "char", "bpe")[data[0] % 3] if data else None
    _use(read_tokenizer_json(_json(data[1:]), kind))


def _safetensors(data: bytes) -> None:
    from randygpt.checkpoint.export import read_export  # noqa: PLC0415 (it imports torch)

    put("export/config.json", json.dumps(_CONFIG.to_json("char")).encode())
    put("export/vocab.json", json.dumps(_TOKENIZER.to_json()).encode())
    put("export/model.safetensors", data)
    read_export(HOME / "export")


def _merge_record(data: bytes) -> None:
    record = MergeRecord.from_json(_json(data))
    same(record, MergeRecord.from_json(json.loads(json.dumps(record.to_json()))))
    record.rule()


def _merge_rule(data: bytes) -> None:
    weights, _, scale = text_of(data).partition("\n")
    for robust in (False, True):
        MergeRule.parse(3, weights=weights, scale=scale, robust=robust)


def _merge(data: bytes) -> None:
    """Merge a foreign checkpoint with two others, by both rules."""
    files = [put("merge/base.bin", _BASE), put("merge/foreign.bin", data), put("merge/other.bin", _BASE)]
    base, foreign, other = (
        MergeFile(title=path.name, path=path, config=_CONFIG, tokenizer=_TOKENIZER) for path in files
    )
    for robust in (False, True):
        merge_files(base, [foreign, other, base], MergeRule.parse(3, robust=robust))


TARGETS: dict[str, Target] = {
    "rgpt-header": _header,
    "rgpt-file": _checkpoint,
    "sidecar": _sidecar,
    "vocabulary": _vocabulary,
    "model-config": _config,
    "tokenizer-json": _tokenizer_json,
    "safetensors": _safetensors,
    "merge-record": _merge_record,
    "merge-rule": _merge_rule,
    "merge-input": _merge,
}
