"""GET /models: what is served, what it takes and how good it is."""

from __future__ import annotations

from fastapi import APIRouter

from api.dependencies import CurrentReplica
from api.models.repository import ModelVersion
from api.replica import Replica
from api.routes.parameters import Name
from api.routes.responses import problem_responses
from api.schemas import ModelInfo, ModelList, RefusedModel, VersionInfo

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", responses=problem_responses(500))
async def list_models(replica: CurrentReplica) -> ModelList:
    """Every model that is served, and what was refused at start with the reason."""
    repository = replica.repository
    return ModelList(
        default=replica.default_model,
        models=[_info(replica, name) for name in repository.names()],
        refused=[RefusedModel(path=refusal.path, reason=refusal.reason) for refusal in repository.refusals],
    )


@router.get("/{name}", responses=problem_responses(404, 422, 500))
async def get_model(name: Name, replica: CurrentReplica) -> ModelInfo:
    """One model: its input, its classes or outputs, where its data came from, its versions and how they did."""
    replica.repository.resolve(name)  # raises UnknownModel, which says what there is
    return _info(replica, name)


def _info(replica: Replica, name: str) -> ModelInfo:
    repository = replica.repository
    default = repository.resolve(name)
    manifest = default.manifest.model_dump(mode="json")
    return ModelInfo(
        name=name,
        description=manifest["description"],
        task=manifest["task"],
        input=manifest["input"],
        classes=manifest["classes"],
        outputs=manifest["outputs"],
        preprocessing=manifest["preprocessing"],
        data=manifest["data"],
        example=manifest["example"],
        versions=[_version(replica, each, default.version) for each in repository.versions_of(name)],
    )


def _version(replica: Replica, version: ModelVersion, default: str) -> VersionInfo:
    manifest = version.version_manifest
    return VersionInfo(
        version=version.version,
        default=version.version == default,
        description=manifest.description,
        created=manifest.created.isoformat(),
        metrics=manifest.metrics,
        training=manifest.training,
        quarantined=replica.served[version.name, version.version].circuit.seconds_left > 0,
        sha256=manifest.sha256,
        digest=version.digest,
    )
