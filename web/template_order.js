// Puts this pack's templates in order: the server lists files as the file system happens to keep them.
import { api } from "../../scripts/api.js";

const pack = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2));
const listed = api.getWorkflowTemplates?.bind(api);

/** Templates for real files by name; those of the built-in models, which begin with a number, behind them. */
const inOrder = (a, b) => /^\d/.test(a) - /^\d/.test(b) || a.localeCompare(b);

if (listed)
    api.getWorkflowTemplates = async () => {
        const packs = await listed();
        if (Array.isArray(packs?.[pack])) packs[pack].sort(inOrder);
        return packs;
    };
