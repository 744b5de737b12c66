import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

DOCUMENT = {
    "1": {"class_type": "Number", "inputs": {"value": 1, "mode": "plain"}, "_meta": {"title": "First v1.5"}},
    "2": {"class_type": "Number", "inputs": {"value": 2, "mode": "plain"}, "_meta": {"title": "Second"}},
    "3": {"class_type": "Sum", "inputs": {"a": ["1", 0], "b": ["2", 0]}},
    "4": {"class_type": "Noise", "inputs": {"seed": 0, "scale": 1.0, "text": "x"}},
    "5": {"class_type": "Show", "inputs": {"source": ["3", 0]}},
}


@pytest.fixture
def after(headless, types):
    """The graph after settings given as text."""

    def apply(*texts):
        graph = headless.workflow.graph_from(DOCUMENT, types)
        settings = [headless.settings.parse_setting(text) for text in texts]
        return headless.settings.apply_settings(graph, settings, types)

    return apply


@pytest.mark.parametrize("node", ["4", "Noise"])
def test_node_is_named_by_id_or_class(after, node):
    assert after(f"{node}.text=a = b.c").nodes["4"].inputs["text"] == "a = b.c"


def test_node_is_named_by_its_display_name_where_only_one_has_it(headless, types):
    document = {"7": {"class_type": "Number", "inputs": {"value": 1, "mode": "plain"}}}
    graph = headless.workflow.graph_from(document, types)
    settings = [headless.settings.parse_setting("A number.mode=double")]
    assert headless.settings.apply_settings(graph, settings, types).nodes["7"].inputs["mode"] == "double"


def test_title_may_hold_dots(after):
    assert after("First v1.5.mode=double").nodes["1"].inputs["mode"] == "double"


def test_later_setting_wins(after):
    assert after("1.mode=double", "1.mode=plain").nodes["1"].inputs["mode"] == "plain"


@pytest.mark.parametrize(("word", "value"), [("true", True), ("Off", False), ("perhaps", "perhaps")])
def test_booleans_are_read_from_words(after, word, value):
    assert after(f"1.exact={word}").nodes["1"].inputs["exact"] == value


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("1value", "is not a setting"),
        ("1.value", "is not a setting"),
        (".value=1", "is not a setting"),
        ("9.value=1", "names no node"),
        ("Secnd.value=1", "Did you mean Second?"),
        ("Number.value=1", "fits several nodes: #1 First v1.5, #2 Second"),
        ("1.valeu=1", "there is no such input; settable are: value, mode, exact. Did you mean value?"),
        ("3.a=1", "#3 Sum input 'a': it takes a link of type INT"),
    ],
)
def test_setting_that_fits_nothing_says_so(headless, after, setting, words):
    with pytest.raises(headless.problems.InvalidWorkflow) as caught:
        after(setting)
    assert words in str(caught.value)


def test_all_bad_settings_are_told_at_once(headless, after):
    with pytest.raises(headless.problems.InvalidWorkflow, match="2 problems"):
        after("9.value=1", "8.value=1")


def test_setting_out_of_range_is_refused_by_the_validation(headless, types, after):
    with pytest.raises(headless.problems.InvalidWorkflow, match="11 is out of range"):
        headless.validate.validated(after("1.value=11"), types)


@examples(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    node=st.from_regex(r"[A-Za-z0-9 .:]*[A-Za-z0-9]", fullmatch=True).filter(lambda name: name == name.strip()),
    name=st.from_regex(r"[a-z_]+", fullmatch=True),
    value=st.text(max_size=30),
)
def test_setting_survives_writing_and_reading(headless, node, name, value):
    setting = headless.settings.Setting(node, name, value)
    assert headless.settings.parse_setting(str(setting)) == setting
