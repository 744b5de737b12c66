"""Any graph runs to what plain Python computes, whichever format it was saved in."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@st.composite
def programs(draw):
    """A list of steps: a number, or the pair of earlier steps (with 0 or 1 for sum or difference) that a Sum adds."""
    steps = [draw(st.integers(0, 10))]
    for position in range(1, draw(st.integers(1, 12))):
        earlier = st.integers(0, position - 1)
        steps.append(draw(st.integers(0, 10) | st.tuples(earlier, earlier, st.integers(0, 1))))
    return steps


def value(steps, position):
    """What step `position` gives; `part` of a Sum's reader tells which of its two outputs is read."""
    step = steps[position]
    if isinstance(step, int):
        return step, step
    a, b, part = step
    return value(steps, a)[part] + value(steps, b)[0], value(steps, a)[part] - value(steps, b)[0]


def wires(steps, step):
    """Where the inputs a and b of a Sum come from: (position, output)."""
    a, b, part = step
    return (a, part if not isinstance(steps[a], int) else 0), (b, 0)


def as_api(steps):
    document = {}
    for position, step in enumerate(steps):
        if isinstance(step, int):
            document[str(position)] = {
                "class_type": "Number",
                "inputs": {"value": step, "mode": "plain", "exact": True},
            }
        else:
            a, b = wires(steps, step)
            inputs = {"a": [str(a[0]), a[1]], "b": [str(b[0]), b[1]]}
            document[str(position)] = {"class_type": "Sum", "inputs": inputs}
    document["show"] = {"class_type": "Show", "inputs": {"source": [str(len(steps) - 1), 0]}}
    return document


def as_ui(steps, order):
    nodes, links = [], []

    def socket(name, origin, target, slot):
        links.append([len(links), *origin, target, slot, "INT"])
        return {"name": name, "type": "INT", "link": len(links) - 1}

    for position, step in enumerate(steps):
        if isinstance(step, int):
            nodes.append({"id": position, "type": "Number", "widgets_values": [step, "plain", True]})
        else:
            a, b = wires(steps, step)
            inputs = [socket("a", a, position, 0), socket("b", b, position, 1)]
            nodes.append({"id": position, "type": "Sum", "inputs": inputs})
    shown = [socket("source", (len(steps) - 1, 0), "show", 0)]
    nodes.append({"id": "show", "type": "Show", "inputs": shown})
    order.shuffle(nodes)
    return {"version": 0.4, "nodes": nodes, "links": links}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=programs(), order=st.randoms(use_true_random=False))
def test_both_formats_give_what_plain_python_computes(run, steps, order):
    expected = [str(value(steps, len(steps) - 1)[0])]
    shown, reused = run(as_api(steps), as_ui(steps, order))
    assert shown == [expected, expected]
    assert any("Show" in label for label in reused), "the second format repeats nothing"
