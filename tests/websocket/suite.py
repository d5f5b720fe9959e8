"""The cases of the public Autobahn test suite, loaded as they are published.

The suite itself runs under Python 2.7 only, which Debian no longer has. Its cases are small classes that say what to
send and what to expect; a few spellings apart they are Python 3 as well, once their strings are what they were: bytes.
A source that is read as Latin-1 has one character for each byte, so the cases keep their own arithmetic.
"""

import builtins
import codecs
import importlib.abc
import importlib.util
import re
import sys
import types
from pathlib import Path

# Spellings of Python 2 in the cases, and what they are now.
SPELLINGS = [
    (re.compile(r"^(\s*)print\b.*$", re.M), r"\1pass"),
    (re.compile(r"\(object, Case, \)"), "(Case, )"),
    (re.compile(r" / "), " // "),
]
# Cases of compression, which is not spoken here, and of traffic that the suite itself leaves out.
LEFT_OUT = {
    "case12_x_x": {"Case12_X_X": [], "Case12_X_X_CaseSubCategories": {},
                   "Case13_X_X": [], "Case13_X_X_CaseSubCategories": {}},
    "case9_9_1": {},
}


class Validator:
    """What the suite asks of UTF-8: whether it is good so far, and whether it ends with a whole character."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def validate(self, text):
        try:
            self.decoder.decode(text.encode("latin-1"))
        except UnicodeDecodeError:
            return False, False, 0, 0
        return True, not self.decoder.getstate()[0], 0, 0


def _module(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module
    return module


class _Cases(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `case` and `case1_1_1` beside each other, as Python 2 does."""

    def __init__(self, folder):
        self.folder = folder

    def find_spec(self, name, path=None, target=None):
        if re.fullmatch(r"case(\d.*)?", name) and name not in LEFT_OUT:
            return importlib.util.spec_from_loader(name, self)
        return None

    def exec_module(self, module):
        self.run(self.folder / f"{module.__name__}.py", module)

    def run(self, path, module):
        source = path.read_bytes().decode("latin-1")
        for spelling, now in SPELLINGS:
            source = spelling.sub(now, source)
        module.__dict__["binascii"] = sys.modules["suite_binascii"]
        source = source.replace("import binascii", "import suite_binascii as binascii")
        exec(compile(source, str(path), "exec"), module.__dict__)


def load(folder, protocol):
    """The case classes by their number, in the suite's own order. `protocol` is their `WebSocketProtocol`."""
    folder = Path(folder) / "autobahntestsuite" / "case"
    if not (folder / "__init__.py").is_file():
        sys.exit(f"{folder}: the cases are not there; tests/websocket/run.sh gets them")
    builtins.xrange = range
    _module("autobahn")
    _module("autobahn.websocket")
    _module("autobahn.websocket.protocol", WebSocketProtocol=protocol)
    _module("autobahn.websocket.utf8validator", Utf8Validator=Validator)
    _module("suite_binascii", b2a_hex=lambda text: text.encode("latin-1").hex())
    for name, members in LEFT_OUT.items():
        _module(name, **members)
    finder = _Cases(folder)
    sys.meta_path.insert(0, finder)
    everything = types.ModuleType("suite_cases")
    finder.run(folder / "__init__.py", everything)
    # By value: pickled bytes, which the suite compares, tell an object that occurs twice from two that are equal.
    everything.Case.compare = lambda self, one, other: one == other
    number = lambda case: case.__name__.removeprefix("Case").replace("_", ".")
    return {number(case): case for case in everything.Cases}
