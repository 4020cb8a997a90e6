"""What AutoModel's ChatDataset and transformers' tokenizer say of small files of rows, in the library's own image.

library.py FOLDER MODEL OUT: for each FOLDER/*.jsonl, `fault` (empty where every row is taken), and `tokens` of each row
by its template.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nemo_automodel.components.datasets.llm.chat_dataset import ChatDataset
from transformers import AutoTokenizer


def main() -> None:
    folder, model, out = map(Path, sys.argv[1:])
    tokenizer = AutoTokenizer.from_pretrained(model)
    told = {file.name: look(file, tokenizer) for file in sorted(folder.glob("*.jsonl"))}
    out.write_text(json.dumps(told))


def look(file: Path, tokenizer: Any) -> dict[str, Any]:
    try:
        data = ChatDataset(str(file), tokenizer, seq_length=None)
        for row in range(len(data)):
            data[row]
    except Exception as e:  # noqa: BLE001 - whatever the library raises is its verdict
        return {"fault": f"{type(e).__name__}: {' '.join(str(e).split())[:200]}", "tokens": []}
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    return {"fault": "", "tokens": [length(row, tokenizer) for row in rows]}


def length(row: dict[str, Any], tokenizer: Any) -> int | None:
    """None for what the template does not render as it is: the dataset joins parts of a text ahead of it."""
    try:
        tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools")
        text = tokenizer.apply_chat_template(row["messages"], tools=tools, tokenize=False)
    except Exception:  # noqa: BLE001 - a template raises anything
        return None
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


main()
