"""What the driver of the editor asks in the page itself: the canvas is one picture, in which nothing can be found."""

from __future__ import annotations

# Where a node, its title and its slots are in the window, in pixels.
PLACES = """([id, outputs, name]) => {
    const {canvas, graph} = window.app
    const node = graph.getNodeById(id)
    const edge = canvas.canvas.getBoundingClientRect()
    const inWindow = ([x, y]) => [
        (x + canvas.ds.offset[0]) * canvas.ds.scale + edge.left,
        (y + canvas.ds.offset[1]) * canvas.ds.scale + edge.top,
    ]
    const [x, y] = node.pos
    const [width, height] = node.size
    const slot = name && (outputs ? node.outputs : node.inputs).findIndex(slot => slot.name === name)
    return {
        corners: [...inWindow([x, y - 30]), ...inWindow([x + width, y + height])],
        title: inWindow([x + 60, y - 15]),
        slot: name && inWindow(outputs ? node.getOutputPos(slot) : node.getInputPos(slot)),
    }
}"""
LOADED_PICTURES = """id => {
    const images = window.app.graph.getNodeById(id).imgs ?? []
    const loaded = images.length > 0 && images.every(image => image.complete && image.naturalWidth)
    return loaded && images.map(image => image.src)
}"""
# 1.58 draws some badges that it does not list: what is written on the canvas is written down.
BADGES = """id => {
    const {canvas, graph} = window.app
    const node = graph.getNodeById(id)
    const context = document.createElement("canvas").getContext("2d")
    const written = []
    context.fillText = text => written.push(text)
    node.drawBadges(context, {})
    return written
}"""
SET_WIDGET = """([id, name, value]) => {
    const widget = window.app.graph.getNodeById(id).widgets.find(it => it.name === name)
    widget.value = value
    widget.callback?.(value)
}"""
# Whether the nodes of a file are there, and are done: a node gets its colour after its type.
HAS_NODES = """expected => {
    const {graph} = window.app
    const isThere = ([id, type, color]) => {
        const node = graph.getNodeById(id)
        return node?.type === type && (node.color ?? null) === color
    }
    return graph.nodes.length === expected.length && expected.every(isThere)
}"""
