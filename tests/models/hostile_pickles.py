"""Pickled weights as a stranger might send them."""

import collections
import io
import os
import pickle
import zipfile

import torch
from safetensors.torch import load_file

from ..conftest import GOLDEN

MARKER = "code-was-run"


def tensors_of(path):
    """In memory of their own: the file is overwritten."""
    read = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return {key: x.clone() for key, x in read.items()}


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _code(chance, folder):
    """Something that would leave a mark if it were run."""
    mark = str(folder / MARKER)
    return chance.choice(
        [
            Call(os.system, f"touch {mark}"),
            Call(eval, f"open({mark!r}, 'w').close()"),
            Call(exec, f"open({mark!r}, 'w').close()"),
            Call(open, mark, "w"),
            Call(os.mkdir, mark),
            Call(getattr, "text", "upper"),
            Call(bytearray, 10**10),
            Call(collections.Counter, {"a": 1}),
            Call(set, [1]),
        ]
    )


def _doubled(depth):
    """A pickle of a dictionary whose key is a tuple that holds itself 2**depth times."""
    pairs = b"".join(bytes([ord("q"), n, ord("h"), n, 0x86]) for n in range(depth))
    return b"\x80\x02})" + pairs + b"Ns."


def _global(module, name, *given):
    """A pickle that calls a function torch itself allows, with arguments of ours."""
    arguments = pickle.dumps(given, protocol=2)[2:-1]
    return b"\x80\x02}X\x01\x00\x00\x00k" + f"c{module}\n{name}\n".encode() + arguments + b"Rs."


def _archive(path, pickled, compression=zipfile.ZIP_STORED, numbers=b"\0" * 64, more=()):
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", numbers)
        archive.writestr("archive/version", "3\n")
        for name in more:
            archive.writestr(name, b"\x80\x02}.")


STRANGE = {
    "tuples that double": lambda: _doubled(60),
    "a long array": lambda: _global("builtins", "bytearray", 10**10),
    "a large number of numpy's": lambda: _global("numpy", "dtype", "V2000000000", False, True),
    "a slow encoding": lambda: _global("_codecs", "encode", "\xe9" * 10**5, "punycode"),
    "a tensor of no memory": lambda: _global("torch._utils", "_rebuild_meta_tensor_no_storage", 1, 2, 3, 4),
    "tuples within tuples": lambda: b"\x80\x02)" + b"\x85" * 10**6 + b".",
    "ten million empty lists": lambda: b"\x80\x02(" + b"]" * 10**7 + b"l.",
    "protocol 5": lambda: pickle.dumps({"x": [1, 2, 3]}, protocol=5),
    "a text": lambda: b"hello",
    "nothing": lambda: b"",
    "no end": lambda: b"\x80\x02}",
    "a number of the memo that is not there": lambda: b"\x80\x02h\x07.",
    "a mark too few": lambda: b"\x80\x02}u.",
}


def spoil_pickle(path, chance, large):
    tensors = tensors_of(path)
    if path.suffix == ".safetensors" and path.name != "adapter_model.safetensors":
        path.unlink()
        path = path.with_name({"model": "pytorch_model", "whole": "whole"}.get(path.stem, path.stem) + ".bin")
    way = chance.choice(
        ["code", "code", "held", "strange", "strange", "packed", "claims", "old", "cut", "names", "tar"]
    )
    key = chance.choice(sorted(tensors))
    if way == "code":
        held = tensors | {key: _code(chance, path.parent)} if chance.random() < 0.7 else _code(chance, path.parent)
        torch.save(held, path, _use_new_zipfile_serialization=chance.random() < 0.7)
    elif way == "held":
        torch.save(chance.choice([[], None, 5, "x", [tensors[key]], {5: tensors[key]}, {"state_dict": []}, {}]), path)
    elif way == "strange":
        name = chance.choice(sorted(STRANGE))
        pickled = STRANGE[name]()
        if chance.random() < 0.5:
            _archive(path, pickled)
        else:
            path.write_bytes(
                pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + pickled
            )
        way = name
    elif way == "packed":
        buffer = io.BytesIO()
        torch.save({key: torch.zeros(1)}, buffer)
        inner = zipfile.ZipFile(buffer)
        root = inner.namelist()[0].partition("/")[0]
        _archive(path, inner.read(f"{root}/data.pkl"), zipfile.ZIP_DEFLATED, numbers=bytes(large))
    elif way == "claims":
        torch.save({key: torch.zeros(1).expand(1 << 40)}, path, _use_new_zipfile_serialization=chance.random() < 0.5)
    elif way == "old":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    elif way == "names":
        extra = chance.choice([["archive/DATA.PKL"], ["other/data.pkl"], ["archive/constants.pkl"], ["archive/../x"]])
        _archive(path, b"\x80\x02}.", more=extra)
    elif way == "tar":
        import tarfile

        with tarfile.open(path, "w") as tar:
            tar.add(GOLDEN / "README.md", "storages")
    else:
        torch.save(tensors, path)
        path.write_bytes(path.read_bytes()[: chance.randrange(1, path.stat().st_size)])
    return way
