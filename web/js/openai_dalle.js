// What this package brings to ComfyUI's editor: settings, prices, messages, and a line that stays on the node.
// It works in the frontends 1.32, 1.49 and 1.58, in both renderers of nodes.

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

const NODES = ["OpenAIDalle2", "OpenAIDalle3"]
const isOurs = (node) => NODES.includes(node?.comfyClass)
const rootGraph = () => app.rootGraph ?? app.graph

let state = { fields: {}, prices: {} } // what the settings are, as the server says

async function ask(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }
  const response = await api.fetchApi(`/openai_dalle/${path}`, body ? post : {})
  const content = await response.json().catch(() => ({ error: `ComfyUI responds with status ${response.status}.` }))
  if (!response.ok) throw new Error(content.error)
  return content
}

async function load() {
  state = await ask("settings").catch((error) => ({ fields: {}, prices: {}, problem: error.message }))
  rows.forEach((show) => show())
}

function element(tag, properties, style, ...children) {
  const made = Object.assign(document.createElement(tag), properties)
  Object.assign(made.style, style)
  made.append(...children)
  return made
}

// The settings page. Nothing is put into the frontend's own store of settings, which is handed to everybody who asks.

const BOX = {
  background: "var(--comfy-input-bg)", color: "var(--input-text)", border: "1px solid var(--border-color)",
  borderRadius: "6px", padding: "6px 10px", width: "100%",
}
const COLUMN = { display: "grid", gap: "4px", width: "min(24rem, 45vw)" }
const SMALL = { fontSize: "12px", whiteSpace: "pre-wrap", overflowWrap: "anywhere" }
const FROM = { environment: "Fixed by the environment.", ".env": "Fixed by the file .env.", editor: "Set here." }
const rows = []
let addressField
let saving = Promise.resolve() // one change after the other: a key goes with the address that was typed before it

function row(label, name, { placeholder = "", options } = {}) {
  const isKey = name === "openai_api_key"
  const choices = Object.entries(options ?? {}).map(([value, text]) => element("option", { value, textContent: text }))
  const input = element(options ? "select" : "input", { ariaLabel: label }, BOX, ...choices)
  if (isKey) input.type = "password"
  if (name === "openai_base_url") addressField = input
  const remove = element("button", { textContent: "Remove the key", onclick: () => save("") }, BOX)
  const note = element("div", {}, SMALL)
  const show = () => {
    const { value = "", source, fixed = true, is_set: isSet } = state.fields[name] ?? {}
    input.value = value
    input.disabled = fixed || Boolean(state.read_only)
    input.placeholder = isSet ? "A key is set, and never shown" : placeholder
    remove.hidden = input.disabled || !isSet
    note.textContent = FROM[source] ?? (fixed ? "" : isKey ? "No key is set." : "Default.")
    if (isKey) note.textContent = state.problem || state.read_only || note.textContent
  }
  const save = (value) => (saving = saving.then(() => saveNow(value)))
  const saveNow = async (value) => {
    // A key is stored for the address that is shown beside it, or refused with it.
    const address = isKey && value && { openai_base_url: addressField.value }
    try {
      state = await ask("settings", { ...address, [name]: value })
      rows.forEach((show) => show())
      note.textContent = state.notice || note.textContent
      await refreshNodes()
    } catch (error) {
      note.textContent = error.message
    }
  }
  input.onchange = () => (input.value || !isKey) && save(input.value)
  // A pasted key counts at once: whoever then closes the settings with Escape never leaves the field.
  if (isKey) input.onpaste = () => setTimeout(input.onchange)
  rows.push(show)
  const made = element("div", {}, COLUMN, input, ...(isKey ? [remove] : []), note)
  return () => {
    if (isKey) load()
    return made
  }
}

function testRow() {
  const note = element("div", {}, SMALL)
  const button = element("button", { textContent: "Test" }, BOX)
  button.onclick = async () => {
    button.disabled = true
    note.textContent = "Asking the server ..."
    note.textContent = await ask("test", {}).then((answer) => answer.message, (error) => error.message)
    button.disabled = false
  }
  const made = element("div", {}, COLUMN, button, note)
  return () => made
}

const BACKENDS = { auto: "Your key or server, if one is set", comfy: "Comfy.org account", openai: "Your key or server" }
const QUALITIES = { low: "Low", medium: "Medium", high: "High", auto: "As the model chooses" }
const SETTINGS = [
  ["Key", "openai_api_key", { placeholder: "Paste your key here" }],
  ["Server address", "openai_base_url", { placeholder: "https://api.openai.com/v1" }],
  ["Who makes the images", "dalle2_backend", { options: BACKENDS }],
  ["Model", "dalle2_model"],
  ["Quality (DALL·E 2)", "dalle2_quality", { options: QUALITIES }],
  ["Test connection", "test"],
].map(([name, field, more], place) => ({
  id: `OpenAIDalle.${field}`,
  category: ["OpenAI DALL·E", "OpenAI DALL·E", field],
  name,
  type: field === "test" ? testRow() : row(name, field, more),
  sortOrder: 100 - place,
}))

/** Let everything in the editor follow changed settings, the sign-in button of 1.58 included. */
async function refreshNodes() {
  await (app.reloadNodeDefs ? app.reloadNodeDefs() : app.refreshComboInNodes())
  app.canvas.setDirty(true, true)
}

/** Nodes on the canvas keep the definition that they were made with. */
function updateNodes(graph, defs) {
  for (const node of graph?.nodes ?? []) {
    updateNodes(node.subgraph, defs)
    if (!isOurs(node)) continue
    const { api_node, price_badge } = defs[node.comfyClass]
    Object.assign(node.constructor.nodeData, { api_node, price_badge })
  }
}

// What a run costs, and who is paid. The known prices are those of square images.

/** The price for the frontend's own badge, which it shows for accounts (1.49 and newer). */
function priceBadge(id) {
  const prices = state.prices[id] ?? {}
  if (!Object.keys(prices).length) return undefined
  const price = (usd) => `{"type": "usd", "usd": ${usd}, "format": {"approximate": inputs.image.connected}}`
  const byQuality = `widgets.size = "1024x1024" ? ${price(`$lookup(${JSON.stringify(prices)}, widgets.quality)`)}`
  const [expr, widgets] = "" in prices
    ? [price(`${prices[""]} * widgets.n`), [{ name: "n", type: "INT" }]]
    : [byQuality, [{ name: "quality", type: "COMBO" }, { name: "size", type: "COMBO" }]]
  return { engine: "jsonata", depends_on: { widgets, inputs: ["image"], input_groups: [] }, expr }
}

function payer(node) {
  const { n = 1, quality = "", size } = Object.fromEntries(node.widgets?.map(({ name, value }) => [name, value]) ?? [])
  const usd = quality && size !== "1024x1024" ? 0 : n * (state.prices[node.comfyClass]?.[quality] ?? 0)
  const isEdit = node.inputs?.some((input) => input.name === "image" && input.link != null)
  return [usd && `${isEdit ? "~" : ""}$${+usd.toFixed(3)}`, state.pays].filter(Boolean).join(" · ")
}

function addBadge(node) {
  const badge = (text) => new window.LGraphBadge({ text, bgColor: "#444", fgColor: "#ddd" })
  // 1.32 knows only what DALL·E 2 cost, in dollars; 1.49 shows a badge without a price where none is known.
  const isWrong = ({ icon, text }) => icon && (!text || text.startsWith("$"))
  const checked = (get) => (typeof get === "function" ? () => (isWrong(get()) ? badge("") : get()) : get)
  // The frontend adds its own in the same hook, before this or after.
  node.badges = node.badges.map(checked)
  node.badges.push = (...badges) => node.badges.splice(node.badges.length, 0, ...badges.map(checked))
  node.badges.push(() => badge(payer(node)))
}

// Messages. For these the frontend has words of its own, in the user's language.

const FRONTEND_SAYS = new RegExp(
  "^(Payment Required:|Rate Limit Exceeded:|Your request was flagged by our content moderation system)" +
    "|Unauthorized: Please login first to use this node\\.|Field 'prompt' cannot be empty\\."
)
let toast

function showToast(node, message) {
  const button = (textContent, act) => {
    const onclick = () => (toast.remove(), act?.())
    return element("button", { textContent, onclick }, { ...BOX, width: "auto", margin: "10px 8px 0 0" })
  }
  const place = { position: "fixed", zIndex: 9000, bottom: "72px", left: "calc(50% - 18rem)", width: "36rem" }
  const look = { ...BOX, padding: "14px 18px", borderLeft: "4px solid #e05252", boxShadow: "0 4px 16px #0008" }
  toast = element("div", { role: "alert" }, { ...look, ...place }, message, element("br"))
  toast.append(button("Help", () => openHelp(node)), button("Close"))
  document.body.append(toast)
}

async function openHelp(node) {
  app.canvas.deselectAll()
  app.canvas.selectNode(node)
  for (let tries = 0; tries < 20; tries++) {
    await new Promise((done) => setTimeout(done, 100))
    const button = document.querySelector("[data-testid=info-button]") // comes with the selection, unless switched off
    if (button) return button.click()
  }
  window.open(new URL(`../docs/${node.comfyClass}.md`, import.meta.url))
}

// The line about a run's outcome. 1.58 takes texts away when a run ends, 1.32 leaves the last one of a cancelled run.

const lines = new Map() // by the node's id: the text, and the workflow that it is for
const running = new Set() // nodes that have said something and not returned
const workflow = () => app.extensionManager.workflow?.activeWorkflow

function nodeOf(executionId) {
  const ids = String(executionId).split(":") // the nodes around it, from the outermost inward
  return ids.reduce((graph, id) => (graph.subgraph ?? graph).getNodeById?.(id) ?? {}, rootGraph())
}

function endRun(textFor) {
  for (const id of running) lines.set(id, { text: textFor(id), of: workflow() })
  setTimeout(() => {
    for (const [nodeId, { text, of }] of lines)
      if (of === workflow()) api.dispatchCustomEvent("progress_text", { nodeId, text })
    running.clear()
  })
}

function followRuns() {
  api.addEventListener("execution_start", () => toast?.remove())
  api.addEventListener("progress_text", ({ detail: { nodeId } }) => {
    if (isOurs(nodeOf(nodeId))) running.add(String(nodeId))
  })
  api.addEventListener("executed", ({ detail: { node, output } }) => {
    // A list as input makes several lines: the one that was written last counts the most pictures.
    const [text] = [...(output?.openai_dalle ?? [])].sort((a, b) => parseInt(b) - parseInt(a))
    if (text) lines.set(String(node), { text, of: workflow() })
    running.delete(String(node))
  })
  api.addEventListener("execution_success", () => endRun(() => ""))
  api.addEventListener("execution_interrupted", () => endRun(() => state.cancelled))
  api.addEventListener("execution_error", ({ detail: { node_id, exception_message } }) => {
    const [message] = exception_message.split("\n")
    const node = nodeOf(node_id)
    endRun((id) => (id === String(node_id) ? message.split(". ")[0] : "Stopped."))
    // Where the frontend's new list of errors is off, or not there yet, it shows our message in a dialog.
    const isHidden = app.extensionManager.setting.get("Comfy.RightSidePanel.ShowErrorsTab")
    if (isOurs(node) && isHidden && !FRONTEND_SAYS.test(message)) showToast(node, message)
  })
}

app.registerExtension({
  name: "openai-dalle",
  settings: SETTINGS,
  setup: followRuns,
  addCustomNodeDefs: load,
  beforeRegisterNodeDef(type, data) {
    if (NODES.includes(data.name)) data.price_badge = priceBadge(data.name)
  },
  nodeCreated: (node) => isOurs(node) && addBadge(node),
  loadedGraphNode(node) {
    // A node that still names ComfyUI's own package would send the next reader to update ComfyUI.
    if (!isOurs(node) || node.properties.cnr_id !== "comfy-core" || !state.package) return
    Object.assign(node.properties, { cnr_id: state.package.name, ver: state.package.version })
  },
  refreshComboInNodes: (defs) => updateNodes(rootGraph(), defs),
})
