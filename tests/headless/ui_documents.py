"""Small UI-format documents for the tests."""

BOX = "0f0f0f0f-1111-4222-8333-444444444444"
"""Id of a subgraph."""


def node(id, type, values=(), inputs=(), outputs=("INT",), **more):
    """A raw node; `inputs` are (name, link) pairs, or (name, link, "widget")."""
    return {
        "id": id,
        "type": type,
        "widgets_values": list(values) if isinstance(values, tuple) else values,
        "inputs": [
            {"name": name, "type": "INT", "link": link} | ({"widget": {"name": name}} if widget else {})
            for name, link, *widget in inputs
        ],
        "outputs": [{"name": name, "type": name} for name in outputs],
        **more,
    }


def show(id, link):
    """An output node."""
    return node(id, "Show", inputs=[("source", link)], outputs=())


def workflow(nodes, links, subgraphs=(), **more):
    """A document; `links` are (id, source, output, target, input)."""
    document = {"nodes": nodes, "links": [[*link, "INT"] for link in links], "version": 0.4, **more}
    return document | ({"definitions": {"subgraphs": list(subgraphs)}} if subgraphs else {})


def subgraph(nodes, links, inputs=(), id=BOX, name="A box"):
    """A definition; `inputs` are names, -10 and -20 in `links` its border."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return {
        "id": id,
        "name": name,
        "nodes": nodes,
        "links": [dict(zip(keys, link, strict=True), type="INT") for link in links],
        "inputs": [{"id": f"i{slot}", "name": name, "type": "INT"} for slot, name in enumerate(inputs)],
    }


def box(id, values=(), inputs=(), proxies=None, type=BOX, **more):
    """A box of a subgraph; `proxies` are its promoted widgets in the notation with a list."""
    properties = {} if proxies is None else {"proxyWidgets": [list(entry) for entry in proxies]}
    return node(id, type, values, inputs, properties=properties, **more)
