"""Gives tokens to pages, and publishes order updates to them: `uvicorn fastapi_app:app`."""

from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Response

from tickgate.fastapi import token_dependency
from tickgate.platform import Platform


def current_user(x_user: Annotated[str | None, Header()] = None) -> str:
    """The logged-in user. Replace this with the platform's own dependency; here, a header names the user."""
    if x_user is None:
        raise HTTPException(401, "log in first")
    return x_user


app, platform = FastAPI(), Platform()


@app.get("/token")
async def token(token: Annotated[str, Depends(token_dependency(current_user))]) -> Response:
    """The token that the page passes to `connect`."""
    return Response(token, media_type="text/plain")


@app.post("/orders/{order_id}/fill")
async def fill(order_id: str, user: Annotated[str, Depends(current_user)]) -> dict[str, str]:
    """Sends an order update to all pages of the user."""
    return {"msg_id": platform.order_update(user, order_id=order_id, status="filled")}
