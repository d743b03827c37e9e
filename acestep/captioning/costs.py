"""Cost estimates of online services, shown before any request is sent."""

from __future__ import annotations

from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS, Backend
from acestep.captioning.configs import CaptionJob
from acestep.captioning.labeling_plan import LabelingPlan


def cost_notes(plan: LabelingPlan, config: CaptionJob) -> list[str]:
    """One cost estimate for each online service that the job uses."""
    seconds: dict[Backend, float] = {}
    for song in plan.songs:
        if song.describe and (captioner := CAPTIONERS[config.captioner]).is_online:
            seconds[captioner] = seconds.get(captioner, 0.0) + song.sample.duration
        if song.transcribe and not song.lyrics_with_caption:
            transcriber = TRANSCRIBERS[config.transcriber]
            if transcriber.is_online:
                seconds[transcriber] = seconds.get(transcriber, 0.0) + song.sample.duration
    return [cost_note(service, total_s) for service, total_s in seconds.items()]


def cost_note(service: Backend, total_s: float) -> str:
    """The estimated cost of ``total_s`` seconds of audio. States if the price is unknown."""
    audio = f"{total_s / 60:.0f} min of audio"
    if service.usd_per_minute is None:
        return f"{service.service}: price unknown for {audio}; check the provider's price list before a long run"
    cost = service.usd_per_minute * total_s / 60
    amount = "less than 0.01" if cost < 0.01 else f"about {cost:.2f}"
    date = f" (price of {service.price_date})" if service.price_date else " (price of unknown date)"
    price = f"about {service.usd_per_minute:g} USD per minute{date}"
    return f"{service.service}: {amount} USD for {audio}, at {price}; check the price list before a long run"
