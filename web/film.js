// A small film of the last run on a node, before and after over each other: drag over the picture to move the border.
// Prompt-to-Prompt Edit shows the mask and a rough edit over the source, Word Heat Maps each word's heat, Compare Clips the edits.
// The server makes one picture of all frames (fatezero_ext/pictures/film_sheet.py), so that both sides move in step.

import { told } from "./page_words.js"

const FRAME_TIME = 125 // milliseconds
const LINE = 2
const LEAST_WIDTH = 512 // of the drawing, for sharp letters
export const LEAST_HEIGHT = 180 // of the player on a node without more room: it grows over no neighbour, and is seen

export const hasFilm = type =>
  ["FateZero_P2PEdit", "FateZero_WordHeatMaps", "FateZero_CompareClips", "FateZero_VideoEdit"].includes(type)

/**
 * Fill `box` with a player; returns {show(films), draw()}: `draw` is called again and again while it is seen.
 * onGone: called where there is nothing to show, as when ComfyUI was started anew and the pictures are gone
 */
export function player(box, urlOf, onGone) {
  const canvas = document.createElement("canvas")
  canvas.className = "fatezero-film"
  canvas.title = told("Drag to compare")
  const tabs = document.createElement("div")
  tabs.className = "fatezero-row"
  const screen = document.createElement("div")
  screen.className = "fatezero-screen"
  screen.append(canvas)
  box.append(screen, tabs)
  box.wantedHeight = () => Math.round((box.offsetWidth * canvas.height) / canvas.width) + tabs.offsetHeight
  let views = []
  let chosen = 0
  let border = 0.5
  let stopped = null // milliseconds at which the film stands still

  function pointTo(event) {
    const place = canvas.getBoundingClientRect()
    border = Math.min(1, Math.max(0, (event.clientX - place.left) / place.width))
    draw()
  }
  canvas.addEventListener("pointerdown", event => {
    if (event.button !== 0) return
    canvas.setPointerCapture(event.pointerId)
    pointTo(event)
  })
  canvas.addEventListener("pointermove", event => {
    if (event.buttons & 1) pointTo(event)
  })

  function show(films) {
    views = films.flatMap((film, number) => {
      const picture = new Image()
      picture.onload = draw
      picture.onerror = () => without(picture)
      picture.src = urlOf(film)
      const labels = film.labels.map(label => (films.length > 1 ? `${number + 1}: ${label}` : label))
      return labels.slice(1).map((after, i) => ({ picture, film, column: i + 1, before: labels[0], after }))
    })
    if (!views.length) return onGone() // as a source alone
    chosen = Math.min(chosen, Math.max(0, views.length - 1))
    drawTabs()
    draw()
  }

  function without(picture) {
    const left = views.filter(view => view.picture !== picture)
    if (left.length === views.length) return // of an earlier film
    views = left
    chosen = 0
    if (left.length) drawTabs()
    else onGone()
  }

  function tab(text, title, pressed, onClick) {
    const made = document.createElement("button")
    Object.assign(made, { type: "button", className: "fatezero-tab", textContent: text, title, onclick: onClick })
    if (pressed !== null) made.ariaPressed = String(pressed)
    tabs.append(made)
  }

  function drawTabs() {
    tabs.replaceChildren()
    if (views[0]?.film.frames > 1) {
      tab(stopped === null ? "❚❚" : "▶", told(stopped === null ? "Stop the film" : "Play the film"), null, () => {
        stopped = stopped === null ? performance.now() : null
        drawTabs()
        draw()
      })
    }
    if (views.length < 2) return
    views.forEach((view, number) =>
      tab(view.after, told("Compare with {label}", { label: view.after }), number === chosen, () => {
        chosen = number
        drawTabs()
        draw()
      })
    )
  }

  function draw() {
    const view = views[chosen]
    if (!view?.picture.naturalWidth || !canvas.offsetParent) return // not loaded, or not to be seen
    const { picture, film } = view
    const [across, down] = [picture.naturalWidth / film.labels.length, picture.naturalHeight / film.frames]
    const scale = Math.max(1, LEAST_WIDTH / across)
    const [width, height] = [Math.round(across * scale), Math.round(down * scale)]
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height })
    const frame = Math.floor((stopped ?? performance.now()) / FRAME_TIME) % film.frames
    Object.assign(canvas.dataset, { frame, file: film.filename })
    const pen = canvas.getContext("2d")
    pen.drawImage(picture, 0, frame * down, across, down, 0, 0, width, height)
    const x = Math.round(border * width)
    if (x < width) {
      const share = across * (1 - x / width)
      const left = (view.column + 1) * across - share
      pen.drawImage(picture, left, frame * down, share, down, x, 0, width - x, height)
    }
    pen.fillStyle = "white"
    pen.fillRect(x - LINE / 2, 0, LINE, height)
    label(pen, view.before, 0, x, "left")
    label(pen, view.after, x, width, "right")
  }

  return { show, draw }
}

/** Write a label at the foot of one side, cut off at the border. */
function label(pen, text, from, to, side) {
  const { height } = pen.canvas
  pen.save()
  pen.beginPath()
  pen.rect(from, 0, to - from, height)
  pen.clip()
  Object.assign(pen, { font: "bold 20px sans-serif", textAlign: side, textBaseline: "bottom" })
  Object.assign(pen, { fillStyle: "white", strokeStyle: "black", lineWidth: 4, lineJoin: "round" })
  const x = side === "left" ? from + 10 : to - 10
  pen.strokeText(text, x, height - 8)
  pen.fillText(text, x, height - 8)
  pen.restore()
}
