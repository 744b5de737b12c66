"""Texts as OmegaConf reads them, with which the authors' program reads its configs."""

import io

import pytest

omegaconf = pytest.importorskip("omegaconf")

NUMBERS = (
    "1e-5 2E3 1.e3 .5e-3 .5e3 -1e5 +1e5 12e03 1_000 1_0e3 1_0.5 1e5_0 _1e3 .e3 0x1F 010 0o10 1:30 1:30.5 1. .inf -.INF"
).split()
OTHERS = ["yes", "off", "~", "null", "''", "2001-01-01", "2001-99-99", "!!str 5", "|\n x\n y"]
REFERENCES = [
    "a: ${b}\nb: '5'",
    "a: ${b}\nb: null",
    "a: x${b}\nb: null",
    "a: x${b}\nb: true",
    "a: x${b}\nb: 1.50",
    "a: x${b}\nb: [1, c]",
    "a: x${b}\nb: {c: 1}",
    "a: '${ b }y'\nb: 1",
    "a: ${b}${c}\nb: 1\nc: 2",
    "a: ${b} and ${b}\nb: ${c}\nc: x",
    "a: ${n}\nn: {m: 3}",
    "a: ${n.m}\nn: {m: 3}",
    "a: [1, b]\nc: ${a.1}\nd: ${a[0]}",
    "a: ${b.0.c}\nb: [{c: 4}]",
    "a: {x: '${b}', y: 1}\nb: ${a.y}",
    "s: {x: '${.y}', y: 2, z: {w: '${..y}', v: '${...t}'}}\nt: 5",
    "s: {l: ['${..y}', '${.2}', 3], y: 2}",
]
BEYOND = [
    ("a: ${n.${k}}\nk: m\nn: {m: 3}", 3),
    ("a: \\${b}\nb: 1", "${b}"),
    ("a: ${b[-1]}\nb: [1, 2]", 2),
    ("a: ${oc.env:FATEZERO_SECRET}", "secret"),
]
"""Texts that OmegaConf resolves and we do not."""
NOWHERE = ["${b}", "${n.x}", "${n.m.x}", "${..n}", "${a}", "x${c}", "${d:1}"]


@pytest.fixture
def parse(configs):
    return configs["yaml_reader"].parse_config


def authors(text):
    return omegaconf.OmegaConf.load(io.StringIO(text))


@pytest.mark.parametrize("text", [*(f"a: {value}" for value in (*NUMBERS, *OTHERS)), *REFERENCES])
def test_values_are_those_of_omegaconf(parse, text):
    assert repr(parse(text)) == repr(omegaconf.OmegaConf.to_container(authors(text), resolve=True))


@pytest.mark.parametrize("reference", NOWHERE)
def test_a_reference_that_omegaconf_cannot_resolve_is_kept_as_such(parse, configs, reference):
    text = f"a: {reference}\nn: {{m: 3}}"
    with pytest.raises(omegaconf.errors.OmegaConfBaseException):
        authors(text)["a"]
    assert isinstance(parse(text)["a"], configs["yaml_reader"].Unresolved)


@pytest.mark.parametrize(("text", "value"), BEYOND)
def test_a_reference_of_a_kind_that_no_config_has_is_not_read_wrongly(parse, configs, monkeypatch, text, value):
    monkeypatch.setenv("FATEZERO_SECRET", "secret")
    assert authors(text)["a"] == value
    assert isinstance(parse(text)["a"], configs["yaml_reader"].Unresolved)
