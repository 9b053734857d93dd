"""The ceiling: a FastAPI route that reads a pydantic body and returns a constant. It does nothing else, so whoever
builds on FastAPI routes stays below it."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Penguin(BaseModel):
    features: list[float]


class Image(BaseModel):
    features: list[list[float]]


class Answer(BaseModel):
    id: str
    prediction: int
    label: str
    confidence: float
    model: str
    version: str
    cached: bool


# As long as a real answer. Returned as a model: FastAPI is quickest with those, pydantic writes the JSON.
ANSWER = Answer(
    id="01890a5d-ac96-774b-bcce-b302099a8057",
    prediction=0,
    label="Adelie",
    confidence=0.998877,
    model="penguins",
    version="2",
    cached=True,
)


@app.post("/predict")
async def predict(body: Penguin) -> Answer:
    return ANSWER


@app.post("/models/digits/predict")
async def predict_image(body: Image) -> Answer:
    return ANSWER


@app.get("/health/ready")
async def ready() -> None:
    return None
