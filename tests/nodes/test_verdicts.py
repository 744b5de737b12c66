"""Queue-time checks say what they find, and leave the rest of ComfyUI's answer alone."""

import json

import pytest

from fatezero_ext.cli.node_pack import load_pack

SAID = "source_prompt is empty. Write it."
OURS = {
    "type": "custom_validation_failed",
    "details": f"steps - {SAID}",
    "extra_info": {"input_name": "steps"},
}


class Answer:
    """A web server's answer: bytes, of which the text is asked for."""

    def __init__(self, body):
        self.body = body

    @property
    def text(self):
        return None if self.body is None else self.body.decode("utf-8")

    @text.setter
    def text(self, text):
        self.body = text.encode()


@pytest.fixture(scope="module")
def verdicts():
    return load_pack("nodes.checking.verdicts")


def put_right(verdicts, body, *, told=True):
    answer = Answer(body)
    with verdicts.validating({"prompt": {}}):
        if told:
            verdicts.verdict({"source_prompt": SAID})
        verdicts.put_answer_right(answer)
    return answer.body


def test_a_mistake_is_put_at_its_own_input(verdicts):
    answer = {"error": None, "node_errors": {"7": {"errors": [OURS]}}}
    (error,) = json.loads(put_right(verdicts, json.dumps(answer).encode()))["node_errors"]["7"]["errors"]
    assert error["extra_info"]["input_name"] == "source_prompt"


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"\x1f\x8b\x08\x00\xff",
        '{"error": "Größe"}'.encode("latin-1"),
        b"no JSON",
        b"[1, 2]",
        b"3",
        b'{"node_errors": null}',
        b'{"node_errors": [1]}',
        b'{"node_errors": {"7": null}}',
        b'{"node_errors": {"7": {"errors": [null]}}}',
        b'{"node_errors": {"7": {}}}',
        b'{"node_errors":   {}}',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_another_pack_has_made_is_left_as_it_is(verdicts, body):
    assert put_right(verdicts, body) == body


def test_an_answer_is_not_looked_at_where_nothing_was_told(verdicts):
    assert put_right(verdicts, b"\xff", told=False) == b"\xff"


def test_values_that_comfyui_refuses_by_their_type_are_left_to_it():
    """ComfyUI calls a node's check with them all the same, and shows what it raises at every other input."""
    for node in load_pack("nodes.headless.schemas.registry").pack_node_types().values():
        if not node.schema.node_id.startswith("FateZero_"):
            continue
        named = load_pack("nodes.headless.schemas.validate")._own_arguments(node)
        for name in named:
            kind = node.inputs[name].get_io_type()
            for value in {"INT": ("wide", [1, 2, 3], {}), "FLOAT": ("wide", [1, 2, 3], {}), "COMBO": (5, {})}.get(
                kind, ()
            ):
                given = {each: getattr(node.inputs[each], "default", None) for each in named} | {
                    name: value
                }  # links: None
                verdict = node.node_class.validate_inputs(**given)
                assert verdict is True or kind == "COMBO" or name not in str(verdict), (node.schema.node_id, name)
