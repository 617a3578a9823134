// What this package brings to ComfyUI's editor: settings, prices, messages, and a line that stays on the node.
// It works in the frontends 1.32, 1.49 and 1.58, in both renderers of nodes.

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

const NODES = ["OpenAIDalle2", "OpenAIDalle3"]
const isOurs = (node) => NODES.includes(node?.type)
const valueOf = (node, name) => node.widgets?.find((widget) => widget.name === name)?.value

let state = { fields: {}, prices: {}, problem: "" }

async function ask(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }
  const response = await api.fetchApi(`/openai_dalle/${path}`, body ? post : {})
  const content = await response.json().catch(() => ({ error: `ComfyUI responds with status ${response.status}.` }))
  if (!response.ok) throw new Error(content.error)
  return content
}

function element(tag, properties, style) {
  const made = Object.assign(document.createElement(tag), properties)
  Object.assign(made.style, style)
  return made
}

// The settings page. The frontend's own store of settings is handed to everybody who asks: nothing is put there.

const BOX = {
  background: "var(--comfy-input-bg)", color: "var(--input-text)", border: "1px solid var(--border-color)",
  borderRadius: "6px", padding: "6px 10px", width: "100%",
}
const FROM = { environment: "Fixed by the environment.", ".env": "Fixed by the file .env.", editor: "Set here." }
const rows = []

function row(name, options) {
  const isKey = name === "openai_api_key"
  const input = element(options ? "select" : "input", isKey ? { type: "password", autocomplete: "off" } : {}, BOX)
  for (const [value, textContent] of Object.entries(options ?? {})) input.append(element("option", { value, textContent }))
  const note = element("div", {}, { fontSize: "12px", opacity: 0.8 })
  const remove = element("button", { textContent: "Remove the key" }, { ...BOX, cursor: "pointer" })
  const show = () => {
    const { value = "", source, fixed = true, is_set: isSet } = state.fields[name] ?? {}
    const missing = isKey ? "No key is set." : "The usual value."
    input.value = value
    input.disabled = fixed || Boolean(state.read_only)
    input.placeholder = isSet ? "A key is set, and never shown" : isKey ? "Paste your key here" : "https://api.openai.com/v1"
    remove.hidden = input.disabled || !isSet
    note.textContent = state.problem || FROM[source] || (fixed ? "Fixed outside of the editor." : missing)
    if (state.read_only) note.textContent += ` ${state.read_only}`
  }
  const save = async (value) => {
    // A key is stored for the address that is shown beside it.
    const address = isKey && { openai_base_url: state.fields.openai_base_url.value }
    try {
      state = await ask("settings", { ...address, [name]: value })
      rows.forEach((each) => each.show())
      await refreshNodes()
    } catch (error) {
      note.textContent = error.message
    }
  }
  input.onchange = () => (input.value || !isKey) && save(input.value)
  // A pasted key counts at once: whoever then closes the settings with Escape never leaves the field.
  if (isKey) input.onpaste = () => setTimeout(input.onchange)
  remove.onclick = () => save("")
  const made = element("div", {}, { width: "min(24rem, 45vw)", display: "grid", gap: "4px" })
  made.append(input, ...(isKey ? [remove] : []), note)
  rows.push({ show })
  return () => made
}

function testRow() {
  const button = element("button", { textContent: "Test" }, { ...BOX, cursor: "pointer" })
  const note = element("div", {}, { fontSize: "12px", whiteSpace: "pre-wrap", overflowWrap: "anywhere" })
  button.onclick = async () => {
    note.textContent = "Asking the server ..."
    note.textContent = await ask("test", {}).then((answer) => answer.message, (error) => error.message)
  }
  const made = element("div", {}, { width: "min(24rem, 45vw)", display: "grid", gap: "4px" })
  made.append(button, note)
  return () => made
}

const BACKENDS = { auto: "Your key or server, if one is set", comfy: "Comfy.org account", openai: "Your key or server" }
const QUALITIES = { low: "Low", medium: "Medium", high: "High", auto: "As the model chooses" }
const SETTINGS = [
  ["Key", "API key", row("openai_api_key")],
  ["Server", "Server address", row("openai_base_url")],
  ["Backend", "Who makes the images", row("dalle2_backend", BACKENDS)],
  ["Model", "Model", row("dalle2_model")],
  ["Quality", "Quality (DALL·E 2)", row("dalle2_quality", QUALITIES)],
  ["Test", "Test connection", testRow()],
].map(([id, name, type], index) => ({
  id: `OpenAIDalle.${id}`, category: ["OpenAI DALL·E", "OpenAI DALL·E", id], name, type, sortOrder: 100 - index,
}))

// What a run costs, and who is paid.

/** The price for the frontend's own badge, which it shows for accounts. The prices are those of square images. */
function priceBadge(type) {
  const prices = state.prices[type] ?? {}
  if (!Object.keys(prices).length) return undefined
  const n = { name: "n", type: "INT" }
  const [quality, size] = ["quality", "size"].map((name) => ({ name, type: "COMBO" }))
  const each = `{"type": "usd", "usd": PRICE, "format": {"approximate": inputs.image.connected}}`
  const expr = "" in prices
    ? each.replace("PRICE", `${prices[""]} * widgets.n`)
    : `widgets.size = "1024x1024" ? ${each.replace("PRICE", `$lookup(${JSON.stringify(prices)}, widgets.quality)`)}`
  const widgets = "" in prices ? [n] : [quality, size]
  return { engine: "jsonata", depends_on: { widgets, inputs: ["image"], input_groups: [] }, expr }
}

function payer(node) {
  const quality = valueOf(node, "quality") ?? ""
  const each = quality && valueOf(node, "size") !== "1024x1024" ? undefined : state.prices[node.type]?.[quality]
  const isEdit = node.inputs?.some((input) => input.name === "image" && input.link != null)
  const price = each && `${isEdit ? "~" : ""}$${+(each * (valueOf(node, "n") ?? 1)).toFixed(3)}`
  return [price, state.pays].filter(Boolean).join(" · ")
}

/** A badge without a price is none, and 1.32 knows only what DALL·E 2 cost. */
function isWrong(badge) {
  return badge.icon && (!badge.text || badge.text.startsWith("$"))
}

function addBadge(node) {
  const { LGraphBadge } = window
  const none = new LGraphBadge({ text: "" })
  const get = (badge) => (typeof badge === "function" ? badge() : badge)
  node.badges.forEach((badge, index) => (node.badges[index] = () => (isWrong(get(badge)) ? none : get(badge))))
  node.badges.push(() => new LGraphBadge({ text: payer(node), bgColor: "#444", fgColor: "#ddd" }))
}

async function refreshNodes() {
  await (app.reloadNodeDefs ? app.reloadNodeDefs() : app.refreshComboInNodes())
  app.canvas?.setDirty(true, true)
}

function everyNode(graph, visit) {
  for (const node of graph?.nodes ?? []) {
    visit(node)
    everyNode(node.subgraph, visit)
  }
}

// Messages.

// The frontend shows words of its own for these, in the user's language.
const FRONTEND_SAYS = new RegExp(
  "^(Payment Required:|Rate Limit Exceeded:|Your request was flagged by our content moderation system)" +
    "|Unauthorized: Please login first to use this node\\.|Field 'prompt' cannot be empty\\."
)
let toast

async function openHelp(node) {
  app.canvas.deselectAll()
  app.canvas.selectNode(node)
  for (let tries = 0; tries < 20; tries++) {
    await new Promise((done) => setTimeout(done, 100))
    const button = document.querySelector("[data-testid=info-button]")
    if (button) return button.click()
  }
  window.open(new URL(`../docs/${node.type}.md`, import.meta.url))
}

function showToast(node, message) {
  toast = element("div", { role: "alert" }, {
    ...BOX, position: "fixed", zIndex: 9000, bottom: "72px", left: "50%", transform: "translateX(-50%)", width: "36rem",
    maxWidth: "80vw", padding: "14px 18px", borderLeft: "4px solid #e05252", boxShadow: "0 4px 16px #0008",
  })
  const button = { ...BOX, width: "auto", cursor: "pointer", margin: "10px 8px 0 0" }
  const help = element("button", { textContent: "Help", onclick: () => openHelp(node) }, button)
  const close = element("button", { textContent: "Close", onclick: () => toast.remove() }, button)
  toast.append(element("div", { textContent: message }, {}), help, close)
  document.body.append(toast)
}

// The line about a run's outcome. The frontend takes texts away when a run ends, or leaves the last one of a cancelled run.

const lines = new Map()
const waiting = new Set()
const workflow = () => app.extensionManager.workflow?.activeWorkflow

function nodeOf(executionId) {
  let node
  for (const id of String(executionId).split(":")) node = (node ? node.subgraph : app.rootGraph ?? app.graph)?.getNodeById(id)
  return node
}

function endRun(lineFor) {
  for (const id of waiting) lines.set(id, { text: lineFor(id), in: workflow() })
  waiting.clear()
  setTimeout(() => {
    for (const [nodeId, line] of lines) {
      if (line.in === workflow()) api.dispatchCustomEvent("progress_text", { nodeId, text: line.text })
    }
    waiting.clear()
  })
}

function followRuns() {
  api.addEventListener("execution_start", () => toast?.remove())
  api.addEventListener("progress_text", ({ detail }) => isOurs(nodeOf(detail.nodeId)) && waiting.add(String(detail.nodeId)))
  api.addEventListener("executed", ({ detail }) => {
    const text = detail.output?.openai_dalle?.[0]
    if (text) lines.set(String(detail.node), { text, in: workflow() })
    waiting.delete(String(detail.node))
  })
  api.addEventListener("execution_success", () => endRun(() => ""))
  api.addEventListener("execution_interrupted", () => endRun(() => state.cancelled))
  api.addEventListener("execution_error", ({ detail }) => {
    const [message] = detail.exception_message.split("\n")
    endRun((id) => (id === String(detail.node_id) ? message.split(". ")[0] : "Stopped."))
    const isInDialog = !app.extensionManager.setting.get("Comfy.RightSidePanel.ShowErrorsTab")
    const node = nodeOf(detail.node_id)
    if (isOurs(node) && !isInDialog && !FRONTEND_SAYS.test(message)) showToast(node, message)
  })
}

// A saved node that still names ComfyUI's own package would send the next reader to update ComfyUI.
function own(node) {
  if (isOurs(node) && node.properties.cnr_id === "comfy-core")
    Object.assign(node.properties, { cnr_id: state.package.name, ver: state.package.version })
}

app.registerExtension({
  name: "openai-dalle",
  settings: SETTINGS,
  setup: followRuns,
  async addCustomNodeDefs() {
    state = await ask("settings").catch((error) => ({ ...state, problem: error.message }))
    rows.forEach((each) => each.show())
  },
  beforeRegisterNodeDef(type, data) {
    if (NODES.includes(data.name)) data.price_badge = priceBadge(data.name)
  },
  nodeCreated: (node) => isOurs(node) && setTimeout(() => addBadge(node)),
  loadedGraphNode: own,
  // Nodes that were there before the settings changed keep the definition of before.
  refreshComboInNodes(defs) {
    everyNode(app.rootGraph ?? app.graph, (node) => {
      if (!isOurs(node)) return
      const { api_node, price_badge } = defs[node.type]
      Object.assign(node.constructor.nodeData, { api_node, price_badge })
    })
  },
})
