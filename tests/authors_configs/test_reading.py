"""YAML texts as the authors' program reads them."""

import pytest

NESTED = """
dataset_config: {prompt: a cat, n_sample_frame: 8}
editing_config:
  clip_length: "${..dataset_config.n_sample_frame}"
  source_prompt: "${dataset_config.prompt}"
  beside: "${.clip_length}"
  deep: {text: "a ${...dataset_config.prompt} and ${dataset_config.n_sample_frame}"}
  prompts: [one, "${editing_config.prompts[0]}"]
"""


@pytest.fixture
def parse(configs):
    return configs["yaml_reader"].parse_config


@pytest.fixture
def error(configs):
    return configs["errors"].ConfigError


def test_references_are_resolved_from_the_top_and_relative(parse):
    editing = parse(NESTED)["editing_config"]
    assert editing["clip_length"] == 8 and editing["beside"] == 8
    assert editing["source_prompt"] == "a cat"
    assert editing["deep"]["text"] == "a a cat and 8"
    assert editing["prompts"] == ["one", "one"]


@pytest.mark.parametrize("text", ["${..nowhere.steps}", "${a}", "${b}", "${oc.env:HOME}", "${.....x}", "${}", "${a"])
def test_a_reference_that_leads_nowhere_is_kept_as_such(parse, configs, text):
    found = parse(f'a: "${{b}}"\nb: "${{a}}"\nsection: {{key: "{text}"}}')["section"]["key"]
    assert isinstance(found, configs["yaml_reader"].Unresolved) and found.text == text


@pytest.mark.parametrize(
    ("first", "each"),
    [
        ("word", '"${{a{0}}}${{a{0}}}"'),
        ("word", '["${{a{0}}}", "${{a{0}}}"]'),
        ("word", '{{left: "${{a{0}}}", right: "${{a{0}}}"}}'),
    ],
)
def test_references_that_grow_without_end_are_refused(parse, error, first, each):
    lines = [f"a0: {first}", *(f"a{number + 1}: {each.format(number)}" for number in range(60))]
    with pytest.raises(error, match=r"put more than 1,000,000 characters in place.*Write the values out"):
        parse("\n".join(lines))


def test_a_reference_that_many_share_is_followed_once(parse):
    lines = ['a0: ""', *(f'a{number + 1}: "${{a{number}}}${{a{number}}}"' for number in range(60))]
    assert set(parse("\n".join(lines)).values()) == {""}


def test_a_repeated_key_is_an_error_with_both_lines(parse, error):
    with pytest.raises(error, match="'b' is in line 2 and again in line 4"):
        parse("a:\n  b: 1\n  c: 2\n  b: 3\n")


def test_numbers_with_an_exponent_are_numbers(parse):
    assert parse("a: 1e-5\nb: 2E3\nc: 1.5e+2\nd: text1e5") == {"a": 1e-5, "b": 2000.0, "c": 150.0, "d": "text1e5"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds NoneType"),
        ("- a\n- b", "holds list"),
        ("1: a", "holds dict"),
        ("a: [1", "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("a: &x 1\nb: *x", "line 2 has an alias"),
        ("a: 0b_", "cannot be read"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    ],
)
def test_what_is_no_config_is_refused(parse, error, text, words):
    with pytest.raises(error, match=words):
        parse(text)


@pytest.mark.parametrize(("content", "words"), [(None, "cannot read"), (b"\xff\xfe\x00\x01", "is not text")])
def test_file_that_cannot_be_read_is_refused(configs, error, tmp_path, content, words):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=words):
        configs["yaml_reader"].read_config(path)
