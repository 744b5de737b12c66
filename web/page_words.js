// The page's own words in the language that is set there. Lines that nodes say come from the server, in English.

const ZH = {
  "Words to blend": "要混合的词",
  "Words to leave out of the mask": "要从遮罩中去掉的词",
  "Words to strengthen": "要加强的词",
  "Words with times of their own": "有单独窗口的词",
  "New words to blend": "要混合的新词",
  "Words to show": "要显示的词",
  "From the source prompt:": "源提示词中的词：",
  "From the edit prompt:": "编辑提示词中的词：",
  "A click on a word puts it into {list}": "点击一个词，把它写进 {list}",
  "Put into {list}": "写进 {list}",
  "Take out of {list}": "从 {list} 中去掉",
  "Click to take it out of {list}.": "点击即可从 {list} 中去掉。",
  "Looked for although the prompt does not say it. ": "提示词里没有，但仍会查找。",
  "Not in the source prompt. ": "源提示词里没有。",
  "Not in the edit prompt. ": "编辑提示词里没有。",
  "Write the prompt to see its words.": "写好提示词，就能看到其中的词。",
  "Connect DDIM Inversion to see the words.": "连接“DDIM 反演”，就能看到其中的词。",
  "These words are known when it runs.": "这些词要到运行时才知道。",
  "Drag to compare": "拖动以对比",
  "Stop the film": "暂停播放",
  "Play the film": "播放",
  "Compare with {label}": "与 {label} 对比",
  auto: "自动",
  all: "全部",
  "as it is": "不变",
}

let language = () => "en"

/** Take the language from now on from `get()`, such as "zh". */
export function speak(get) {
  language = get
}

/** A text of the page in its language, with the values for names in braces. */
export function told(english, values = {}) {
  const text = (/^zh\b/.test(language() ?? "") && ZH[english]) || english
  return text.replace(/\{(\w+)\}/g, (braced, name) => values[name] ?? braced)
}
