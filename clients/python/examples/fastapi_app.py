"""Tokens for pages, and orders to them: `uvicorn fastapi_app:app`."""

from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Response

from tickgate.fastapi import token_dependency
from tickgate.platform import Platform


def current_user(x_user: Annotated[str | None, Header()] = None) -> str:
    """Who is logged in: the platform has this already. A header stands for it here."""
    if x_user is None:
        raise HTTPException(401, "log in first")
    return x_user


app, platform = FastAPI(), Platform()


@app.get("/token")
async def token(token: Annotated[str, Depends(token_dependency(current_user))]) -> Response:
    """What the page gives to `connect`."""
    return Response(token, media_type="text/plain")


@app.post("/orders/{order_id}/fill")
async def fill(order_id: str, user: Annotated[str, Depends(current_user)]) -> dict[str, str]:
    """Tells all pages of the user."""
    return {"msg_id": platform.order_update(user, order_id=order_id, status="filled")}
