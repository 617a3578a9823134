"""From jobs to images, each step once and in this order: look for paid answers, ask, fetch, restore.

Nothing that was paid for is lost on the way: an answer stays in the cache until its images are delivered.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from PIL import Image
from torch import Tensor

from ..api_client import Answer, ImagesClient
from ..backends import Backend
from ..errors import CallCancelled, Charge, ImagesApiError, UnusableAnswer
from ..image_codec import ImageError, decode_images, fit, open_image, opening_slots, to_image
from ..models import ImageRequest, Picture
from ..net.addresses import PrivateAddress
from ..threads import map_threads
from .answer_cache import AnswerCache, CachedAnswer
from .call_context import MAX_ASKED_AT_ONCE, POLL_S, PREVIEW_SIDE_PX, CallContext
from .fallback import Fallback, Job, ServerMemory
from .inpainting import with_alpha

log = logging.getLogger("openai-dalle")

MAX_DOWNLOADS_AT_ONCE = 8  # as many as one job can have
MAX_FAILED_RUNS = 2  # that end in an error for missing images; the next one delivers those that are there


@dataclass(frozen=True)
class Result:
    """The images of one job, `[N,H,W,C]`, and the answer that they came from.

    `is_reused`: an earlier run paid for it. `lacks_quality`: the server rejected the quality that was chosen.
    """

    job: Job
    images: Tensor
    answer: Answer
    is_reused: bool
    lacks_quality: bool


@dataclass(eq=False)
class _Task:
    """A job while its call runs: the name and the entry of its answer in the cache, and the error that it ended in."""

    job: Job
    key: str
    entry: CachedAnswer | None
    error: BaseException | None = None

    @property
    def has_answer(self) -> bool:
        """Whether the API has answered, in this run or an earlier one."""
        return self.entry is not None and self.entry.answer is not None


@dataclass(frozen=True)
class Generator:
    """All that one call needs: the client and its backend, what is remembered, and the call itself."""

    client: ImagesClient
    backend: Backend
    memory: ServerMemory
    cache: AnswerCache
    call: CallContext

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        """The images of every job, in order. Raises ImagesApiError.

        After a failure no further job of this call is begun: its answer would be paid for and not be seen.
        """
        self.call.group.expect(sum(job.request.n for job in jobs))
        keys = map_threads(self._cache_key, jobs, limit=MAX_ASKED_AT_ONCE)
        # Every kept answer is taken before a new one is asked for, which could push it out of the cache.
        tasks = [_Task(job, key, self._paid_answer(key)) for job, key in zip(jobs, keys, strict=True)]

        def run_task(task: _Task) -> Result | None:
            if task.entry is None:
                if any(each.error for each in tasks):
                    return None  # and no error: the first one by place is raised, and would hide what failed
                task.entry = self._reserved(task.key)
            try:
                return self._run_one(task.job, task.entry)
            except BaseException as err:
                task.error = err
                self._log_if_nobody_waits(err)
                raise

        try:
            results = map_threads(run_task, tasks, limit=MAX_ASKED_AT_ONCE)
        except ImagesApiError as err:
            _add_note_on_others(err, tasks)
            raise
        if self.call.cancelled.is_set():
            raise CallCancelled("Cancelled after the images had arrived.", charge=Charge.PAID_BEFORE)
        return [result for result in results if result is not None]  # None came only beside an error

    def _reserved(self, key: str) -> CachedAnswer:
        entry = self.cache.reserve(key, self.call.cancelled)
        self.call.use(entry)
        return entry

    def _run_one(self, job: Job, entry: CachedAnswer) -> Result:
        answer = entry.answer
        if answer is None:
            fallback = Fallback(self.client, self.backend, self.memory.of(self.backend))
            with self.call.slot():
                answer = entry.answer = fallback.ask(job, self._show_model)
        images = self._fetch(job, entry, answer)
        return Result(job, images, answer, entry.is_reused, self._lacks_quality(job, answer.request))

    def _lacks_quality(self, job: Job, sent: ImageRequest) -> bool:
        chosen = self.backend.translated(sent.model, job.request).quality
        return chosen is not None and sent.quality is None

    def _cache_key(self, job: Job) -> str:
        """Names a job: where it is sent, for which account, and what it asks. The seed is no part of it."""
        backend, request = self.backend, job.request
        edit = job.edit.digest if job.edit else None
        quality = request.quality or backend.quality
        parts = (backend.base_url, backend.account, backend.fixed_model, quality, request, edit)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _paid_answer(self, key: str) -> CachedAnswer | None:
        """An answer to the same job that an earlier run left, or that a cancelled one is about to leave."""
        is_announced = False
        while True:
            is_coming = self.cache.is_coming(key)  # looked at first: `checkout` then finds what comes in between
            entry = self.cache.checkout(key, self.call.cancelled)
            if entry is not None:
                self.call.use(entry)
                return entry
            if not is_coming:
                return None
            if not is_announced:
                self.call.begin("Waiting for the images of the cancelled run")
                is_announced = True
            self.call.pause(POLL_S)
            if self.call.cancelled.is_set():
                raise CallCancelled("Cancelled while waiting for the images of a cancelled run.")

    def _fetch(self, job: Job, entry: CachedAnswer, answer: Answer) -> Tensor:
        """Download, decode and restore every image that is available."""
        pictures = [picture for picture in answer.pictures if picture.b64_json or picture.url][: job.request.n]
        images: dict[int, Image.Image | Tensor] = {}
        problems: dict[int, Exception] = {}

        def fetch_one(index: int) -> None:
            try:
                if self.call.cancelled.is_set():
                    raise CallCancelled("Cancelled before an image was fetched.", charge=Charge.PAID_BEFORE)
                file = self._file(entry, index, pictures[index])
                with opening_slots:
                    images[index] = self._finished(job, open_image(file))
                self.call.step(_preview(images[index]))
            except CallCancelled:
                raise
            except (ImagesApiError, ImageError) as err:
                problems[index] = err
                if isinstance(err, ImageError):
                    entry.downloads.pop(index, None)
            self._show_download(pictures, done=len(images) + len(problems))

        self._show_download(pictures, done=0)
        map_threads(fetch_one, range(len(pictures)), limit=MAX_DOWNLOADS_AT_ONCE)
        if self.call.cancelled.is_set():  # the next call may have taken the answer over
            raise CallCancelled("Cancelled while the images were fetched.", charge=Charge.PAID_BEFORE)
        if problems:
            self._handle_problems(entry, pictures, problems)
        return _as_tensor([images[index] for index in sorted(images)])

    def _file(self, entry: CachedAnswer, index: int, picture: Picture) -> bytes:
        file = picture.b64_json or entry.downloads.get(index)
        if file is None:
            file = entry.downloads[index] = self.client.download(picture.url or "")
        return file

    def _finished(self, job: Job, image: Image.Image) -> Image.Image | Tensor:
        if job.edit is not None:
            return job.edit.restore(image)
        return fit(image, job.request.size)

    def _handle_problems(
        self, entry: CachedAnswer, pictures: Sequence[Picture], problems: Mapping[int, Exception]
    ) -> None:
        """Raise if another run could still get the missing images; otherwise let the rest be delivered."""
        problem = problems[min(problems)]
        missing, count = len(problems), len(pictures)
        is_offline = missing == count and any(map(_is_transient, problems.values()))
        if not is_offline:
            entry.failed_runs += 1
        can_change = any(_can_change(pictures[index], each) for index, each in problems.items())
        if is_offline or (can_change and entry.failed_runs <= MAX_FAILED_RUNS):
            raise UnusableAnswer(
                f"{problem}\nNot fetched yet: {missing} of {count}. Your paid answer is kept for an hour: run again, "
                "and only what is missing is fetched. Nothing is charged a second time.",
                charge=Charge.PAID_BEFORE,
                is_transient=True,
            )
        if missing == count:
            self.cache.discard(entry)
            raise UnusableAnswer(
                f"{problem}\nRunning again asks for new images, which will be charged.", charge=Charge.LIKELY
            )
        log.warning("%d of %d images could not be fetched: %s", missing, count, problem)

    def _show_model(self, model: str | None) -> None:
        self.call.begin(f"Waiting for {self.client.hide(model or 'the server')}")

    def _show_download(self, pictures: Sequence[Picture], *, done: int) -> None:
        if done < len(pictures) and not pictures[done].b64_json:
            self.call.begin(f"Downloading {done + 1} of {len(pictures)}")

    def _log_if_nobody_waits(self, err: BaseException) -> None:
        if self.call.cancelled.is_set() and not isinstance(err, CallCancelled):
            log.warning("A cancelled call has ended without images: %s", err)


def _is_transient(problem: Exception) -> bool:
    """Whether it may pass by itself: no connection, a busy host."""
    return isinstance(problem, ImagesApiError) and problem.is_transient


def _can_change(picture: Picture, problem: Exception) -> bool:
    """Whether another run could get the image.

    False for what fails in the same way every time: an image in the answer itself, a URL that is no good, too many
    redirects, a file that is too large.
    """
    is_final = isinstance(problem, UnusableAnswer) and not isinstance(problem, PrivateAddress)
    return not picture.b64_json and not is_final


def _add_note_on_others(error: ImagesApiError, tasks: Sequence[_Task]) -> None:
    """Complete the error of one image with what became of the other images of its batch."""
    failed = next(task for task in tasks if task.error is not None)
    kept = sum(task.has_answer for task in tasks if task is not failed)
    was_paid = kept > 0 or error.charge is Charge.PAID_BEFORE
    error.charge = _worst_charge(tasks)
    if error.charge is Charge.NO and was_paid:  # its sentence, "Nothing was charged.", would be untrue
        error.charge = Charge.PAID_BEFORE
    if kept:
        kept_others = "1 other is" if kept == 1 else f"{kept} others are"
        error.note += (
            f" This is about image {tasks.index(failed) + 1} of {len(tasks)}; {kept_others} paid for and kept for an "
            "hour, and not charged again if nothing is changed for them."
        )


def _worst_charge(tasks: Iterable[_Task]) -> Charge:
    worst = next(iter(Charge))  # they are in order, the worst last
    for task in tasks:
        if isinstance(task.error, ImagesApiError):
            worst = max(worst, task.error.charge, key=list(Charge).index)
    return worst


def as_batch(results: Sequence[Result]) -> Tensor:
    """All images as one IMAGE, with alpha only where some image has transparency."""
    return _joined([result.images for result in results])


def summary(calls: Sequence[Sequence[Result]], seconds: float) -> str:
    """What the user should know of what a node's calls have made, in one line."""
    asked = came = reused = 0
    credits = 0.0
    models: set[str] = set()
    lacks_quality = False
    for result in chain.from_iterable(calls):
        count = len(result.images)
        asked += result.job.request.n
        came += count
        models.add(result.answer.request.model or "the server's model")
        lacks_quality = lacks_quality or result.lacks_quality
        if result.is_reused:
            reused += count
        else:
            credits += result.answer.credits or 0
    phrases = [_counted(came, asked), " and ".join(sorted(models)), f"{seconds:.1f} s"]
    if credits:
        phrases.append(f"{credits:g} credits")
    if reused:
        phrases.append(f"{reused} paid for before")
    if lacks_quality:
        phrases.append("the server refused the quality")
    return " · ".join(phrases)


def _counted(came: int, asked: int) -> str:
    if came != asked:
        return f"{came} of {asked} pictures"
    return "1 picture" if came == 1 else f"{came} pictures"


def _preview(image: Image.Image | Tensor) -> Image.Image:
    """A small copy: a large one would be scaled and sent at once, by ComfyUI, in the thread of its event loop."""
    if isinstance(image, Tensor):
        step = max(1, max(image.shape[1:3]) // PREVIEW_SIDE_PX)
        return to_image(image[0, ::step, ::step])
    return image.reduce(-(-max(image.size) // PREVIEW_SIDE_PX))  # rounded up


def _as_tensor(images: Sequence[Image.Image | Tensor]) -> Tensor:
    """The images of one job: tensors of an edit, Pillow images otherwise."""
    opened: list[Image.Image | bytes] = []
    tensors: list[Tensor] = []
    for image in images:
        if isinstance(image, Tensor):
            tensors.append(image)
        else:
            opened.append(image)
    return _joined(tensors) if tensors else decode_images(opened)


def _joined(batches: Sequence[Tensor]) -> Tensor:
    """One batch of several, with alpha if some image of them is transparent."""
    has_alpha = False
    for batch in batches:
        if batch.shape[-1] == 4 and (batch[..., 3] < 1).any():
            has_alpha = True
    uniform = [with_alpha(batch) if has_alpha else batch[..., :3] for batch in batches]
    if len(uniform) == 1:
        return uniform[0].contiguous()  # cat would copy a single one, too
    return torch.cat(uniform)
