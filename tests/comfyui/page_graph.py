"""A change of the colour edit's graph on the page, in its language."""

ADD_NODES = """() => {
    const of = type => app.graph.nodes.find(node => node.type == type);
    const made = (type, place) => {
        const node = LiteGraph.createNode(type);
        node.pos = place;
        app.graph.add(node);
        return node;
    };
    const slot = (node, name) => node.inputs.findIndex(input => input.name == name);
    const link = (from, output, to, name) => from.connect(output, to, slot(to, name));
    const [frames, edit] = [of('FateZero_PrepareFrames'), of('FateZero_P2PEdit')];
    const heat = made('FateZero_WordHeatMaps', [0, 1300]);
    const compare = of('FateZero_CompareClips');
    link(frames, 0, edit, 'images');
    link(of('FateZero_DDIMInvert'), 0, heat, 'controller');
    link(frames, 0, heat, 'images');
    link(frames, 0, compare, 'source');
    link(of('FateZero_KeepSourcePixels'), 0, compare, 'edit_1');
    link(of('VAEDecode'), 0, compare, 'edit_2');
    for (const [node, place] of [[heat, [450, 1300]], [compare, [1200, 1300]]])
        link(node, 0, made('PreviewImage', place), 'images');
}"""
"""Links the frames to Prompt-to-Prompt Edit, adds Word Heat Maps, and previews behind it and Compare Clips."""
