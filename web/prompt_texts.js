// The texts that prompts of a node will have, as far as the page knows them: typed, of text nodes, behind reroutes, and
// through the walls of subgraphs.

const SUBGRAPH_INPUT = -10 // the page's id for what comes into a subgraph
const MOST_HOPS = 100 // a file may link reroutes in a circle

const inputOf = (node, name) => node.inputs?.find(input => input.name === name)

export const widgetOf = (node, name) => node.widgets?.find(widget => widget.name === name)
export const isLinked = (node, name) => inputOf(node, name)?.link != null

/** All boxes of a workflow that show a subgraph. */
export function boxesOf(subgraph) {
  const root = subgraph.rootGraph
  const graphs = [root, ...(root?.subgraphs?.values() ?? [])]
  return graphs.flatMap(graph => graph?.nodes ?? []).filter(node => node.subgraph === subgraph)
}

/**
 * Where an input's value comes from: {node} whose output it is, or {node, name} of the input that nothing is linked to;
 * several where a subgraph stands in several boxes.
 */
function ends(node, input, hops = 0) {
  if (hops > MOST_HOPS) return []
  if (input?.link == null) return [{ node, input }]
  return linkEnds(node.graph, input.link, hops)
}

function linkEnds(graph, id, hops) {
  const link = graph?.getLink?.(id)
  if (!link) return []
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    return boxesOf(graph).flatMap(box => ends(box, box.inputs[link.origin_slot], hops + 1))
  }
  const node = graph.getNodeById(link.origin_id)
  if (node?.type === "Reroute") return ends(node, node.inputs[0], hops + 1)
  if (!node?.subgraph) return node ? [{ node }] : []
  const [inner] = node.subgraph.outputs[link.origin_slot]?.linkIds ?? []
  return inner == null || hops > MOST_HOPS ? [] : linkEnds(node.subgraph, inner, hops + 1)
}

/** The text that is typed for an input: a box of a subgraph has its own widgets for what is inside. */
function typed(node, input) {
  const widget = input._widget ?? widgetOf(node, input.widget?.name ?? input.name)
  return widget ? [String(widget.value ?? "")] : []
}

/** The texts that an input or widget will have, one for each run; [] where they are known only when it runs. */
export function textsOf(node, name) {
  const input = inputOf(node, name) ?? { name }
  const texts = ends(node, input).map(end => {
    if (end.input) return typed(end.node, end.input)
    if (end.node.type === "FateZero_EditPrompts") {
      return textsOf(end.node, "prompts").flatMap(text => text.split("\n").filter(line => line.trim()))
    }
    return /^Primitive(String|StringMultiline|Node)$/.test(end.node.type) ? textsOf(end.node, "value") : []
  })
  return texts.every(each => each.length) ? texts.flat() : []
}

/** The texts of a node's "source" or "edit" prompt: its own, or those of the inversion behind its controller. */
export function promptsOf(node, which) {
  const name = `${which}_prompt`
  if (widgetOf(node, name) || which === "edit") return textsOf(node, name)
  if (!isLinked(node, "controller")) return []
  const inversions = ends(node, inputOf(node, "controller")).map(end => end.node)
  const isKnown = inversions.every(each => each.type === "FateZero_DDIMInvert")
  return isKnown ? inversions.flatMap(each => textsOf(each, name)) : []
}
