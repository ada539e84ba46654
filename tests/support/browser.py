"""Chromium, driven over its DevTools protocol: tabs with keyboard, window and console."""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

GIVE_UP_S = 120
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--remote-debugging-port=0",
)
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), " ": (32, " ")}
CTRL, SHIFT = 2, 8


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[str]:
    """Start a browser with an empty profile; yield the address of its DevTools."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "these tests need Chromium: apt-get install chromium"
    command = [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            [address] = itertools.islice(
                (line.split()[-1] for line in process.stderr if line.startswith("DevTools listening on")), 1
            )
            yield address
        finally:
            process.terminate()
            process.communicate(timeout=GIVE_UP_S)


class Tab:
    """A page in a browser, and its console messages."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: dict[str, str] = {}
        self._context = ""
        self.console: list[str] = []  # errors, warnings, and violations of the policy
        self.requests: list[dict[str, Any]] = []

    async def send(self, method: str, **params: object) -> dict[str, Any]:
        """Call a DevTools method and return its result; raises AssertionError if it fails."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params} | self._session))
        async with asyncio.timeout(GIVE_UP_S):
            reply = await waiting
        assert "error" not in reply, f"{method}: {reply}"
        return dict(reply["result"])

    async def listen(self) -> None:
        """Receive the browser's messages until it closes the connection."""
        async for message in self._socket:
            said = json.loads(message)
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
                continue
            self._hear(said["method"], said["params"])

    def _hear(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self.console.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.console.append(str(params["args"]))
            case "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"])

    async def open(self) -> None:
        """Open the tab, in a context without cookies or storage."""
        self._context = (await self.send("Target.createBrowserContext"))["browserContextId"]
        target = await self.send("Target.createTarget", url="about:blank", browserContextId=self._context)
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            await self.send(f"{domain}.enable")
        await self.size(1100, 800)

    async def allow(self, *permissions: str) -> None:
        """Grant permissions to the page, and deny all others."""
        await self.send("Browser.grantPermissions", browserContextId=self._context, permissions=permissions)

    async def size(self, width: int, height: int) -> None:
        """Set the size of the window in CSS pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    async def scheme(self, name: str) -> None:
        """Prefer a color scheme, light or dark."""
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    async def go(self, address: str) -> None:
        """Load a page."""
        assert "errorText" not in await self.send("Page.navigate", url=address)
        await self.until("document.readyState === 'complete'")

    async def run(self, code: str) -> Any:  # noqa: ANN401 (JSON)
        """Return the awaited value of an expression in the page; raises AssertionError if it throws."""
        reply = await self.send(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    async def until(self, code: str) -> Any:  # noqa: ANN401 (JSON)
        """Wait until an expression is true; return its value."""
        try:
            async with asyncio.timeout(GIVE_UP_S):
                while not (value := await self.run(code)):  # noqa: ASYNC110 (another process changes it)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never: {code}\n{await self.run('document.body.innerText')}") from None
        return value

    async def complains(self, words: str) -> None:
        """Wait for a console message with these words."""
        async with asyncio.timeout(GIVE_UP_S):
            while not any(words in line for line in self.console):  # noqa: ASYNC110 (another process says it)
                await asyncio.sleep(0.02)

    async def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(await self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def fill(self, selector: str, value: str) -> None:
        """Replace the text of a field."""
        found = f"document.querySelector({json.dumps(selector)})"
        await self.run(f"{found}.focus(), {found}.select()")
        await self.send("Input.insertText", text=value)

    async def click(self, selector: str) -> None:
        """Scroll an element into view and click it."""
        found = f"document.querySelector({json.dumps(selector)})"
        await self.run(f"{found}.scrollIntoView({{block: 'center'}})")
        box = await self.run(f"{found}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key in the focused element."""
        code, text = KEYS[key]
        facts = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        down = facts | ({"text": text} if text and not modifiers else {})
        await self.send("Input.dispatchKeyEvent", type="keyDown", modifiers=modifiers, **down)
        await self.send("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **facts)

    async def focused(self) -> str:
        """Return the accessible name of the focused element."""
        return next((name for _, name, focused in await self._nodes() if focused), "")

    async def names(self, role: str) -> list[str]:
        """Return the accessible names of all elements in a role."""
        return [name for found, name, _ in await self._nodes() if found == role]

    async def _nodes(self) -> list[tuple[str, str, bool]]:
        nodes = (await self.send("Accessibility.getFullAXTree"))["nodes"]
        return [
            (
                node["role"]["value"],
                node.get("name", {}).get("value", "").strip(),
                any(each["name"] == "focused" and each["value"]["value"] for each in node.get("properties", [])),
            )
            for node in nodes
            if not node["ignored"] and node["role"]["value"] != "RootWebArea"
        ]

    async def picture(self) -> bytes:
        """Return a screenshot of the whole page as a PNG."""
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@contextlib.asynccontextmanager
async def tab(browser: str) -> AsyncIterator[Tab]:
    """Open a tab; yield it and close it at the end."""
    async with connect(browser, max_size=None, proxy=None) as socket:
        made = Tab(socket)
        listening = asyncio.create_task(made.listen())
        try:
            await made.open()
            yield made
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
