"""The scripted server as a process: python scripted_main.py PORT [REPLY [LONGEST]].

Without a REPLY it is a faithful recall server; prompts of more than LONGEST tokens are never answered.
"""

from __future__ import annotations

import asyncio
import sys

from scripted import Script, ScriptedServer, serve


async def main(port: int, script: Script) -> None:
    server = ScriptedServer(script=script)
    async with serve(server, port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    reply = (sys.argv[2] if len(sys.argv) > 2 else "") or None
    hang_above = int(sys.argv[3]) if len(sys.argv) > 3 else None
    asyncio.run(main(int(sys.argv[1]), Script(reply=reply, recall=reply is None, hang_above=hang_above)))
