"""From the source's tables to the columns a model may see of a flight before it departs.

Pure functions of Arrow tables; ``workers.data.flights`` reads the tables and writes the result.
Weather is laid out as grids of [airports, hours of the year], so that filling in the last known
report and looking back over some hours are plain array operations, and neither looks ahead.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["FLIGHT_COLUMNS", "LATE_MINUTES", "flight_columns"]

LATE_MINUTES = 15
"""A flight is late when it arrives more than this many minutes after its scheduled arrival."""

FLIGHT_COLUMNS = (
    "month", "day", "sched_dep_time", "sched_arr_time", "arr_delay", "carrier", "flight",
    "tailnum", "origin", "dest", "distance", "time_hour",
)  # fmt: skip
"""All that is read of a flight: what is known before it departs, and the arrival's delay for the
label."""

_AIRPORTS = ("EWR", "JFK", "LGA")
_FIRST_DAY = date(2013, 1, 1)

# Weather columns, and what stands in until an airport's first report of the year.
_WEATHER_DEFAULTS = {
    "temp": 40.0, "dewp": 28.0, "humid": 62.0, "wind_dir": 0.0, "wind_speed": 8.0,
    "precip": 0.0, "pressure": 1018.0, "visib": 10.0,
}  # fmt: skip
_FASTEST_WIND = 150.0  # miles an hour; the source holds one report of 1048

_UNKNOWN = "unknown"
_PLANE_YEAR_FILL = 2001
_SEATS_FILL = 149

_HOLIDAYS = {
    "new_year": date(2013, 1, 1), "martin_luther_king": date(2013, 1, 21),
    "presidents_day": date(2013, 2, 18), "easter": date(2013, 3, 31),
    "memorial_day": date(2013, 5, 27), "independence_day": date(2013, 7, 4),
    "labor_day": date(2013, 9, 2), "columbus_day": date(2013, 10, 14),
    "veterans_day": date(2013, 11, 11), "thanksgiving": date(2013, 11, 28),
    "christmas": date(2013, 12, 25), "next_new_year": date(2014, 1, 1),
}  # fmt: skip


def flight_columns(
    scheduled: pa.Table, *, planes: pa.Table, weather: pa.Table, airports: pa.Table
) -> pa.Table:
    """All flights that arrived, in the order of their scheduled departure.

    Args:
        scheduled: The columns ``FLIGHT_COLUMNS`` of every scheduled flight.
        planes: The register of aircraft.
        weather: The hourly reports of the three airports.
        airports: Airports with their time zones.

    Returns:
        The columns that ``workers.data.flights.prepare_flights`` lists, none of them nullable.
    """
    order = [
        (name, "ascending")
        for name in ("time_hour", "sched_dep_time", "origin", "carrier", "flight")
    ]
    scheduled = scheduled.sort_by(order).combine_chunks()
    arrived = scheduled["arr_delay"].is_valid()
    # Cancelled flights were scheduled all the same, so they count as traffic.
    departures = _scheduled_departures(scheduled)[arrived.to_numpy()]
    flights = scheduled.filter(arrived)

    month, day = _integers(flights["month"]), _integers(flights["day"])
    first_of_month = np.array([0] + [(date(2013, m, 1) - _FIRST_DAY).days for m in range(1, 13)])
    day_of_year = first_of_month[month] + day
    weekday = (_FIRST_DAY.weekday() + day_of_year - 1) % 7
    departure, arrival = _integers(flights["sched_dep_time"]), _integers(flights["sched_arr_time"])
    hour, minute = departure // 100, departure % 100
    departure = hour * 60 + minute
    arrival = arrival // 100 * 60 + arrival % 100
    ahead = _minutes_ahead(flights["dest"], day_of_year, airports)

    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "late": pa.array((_integers(flights["arr_delay"]) > LATE_MINUTES).astype(np.int8)),
        **{name: flights[name] for name in ("carrier", "origin", "dest", "tailnum")},
        **_plane_columns(flights["tailnum"], planes),
    }
    numbers = {
        "flight": _integers(flights["flight"]), "month": month, "day": day, "weekday": weekday,
        "day_of_year": day_of_year, "hour": hour, "minute": minute,
        "sched_dep_minutes": departure, "sched_arr_minutes": arrival,
        "sched_elapsed_minutes": (arrival - departure - ahead) % 1440,
        "distance": _integers(flights["distance"]), "scheduled_departures": departures,
    }  # fmt: skip
    columns |= {name: pa.array(values.astype(np.int32)) for name, values in numbers.items()}
    columns["calendar_tags"] = _calendar_tags(day_of_year, hour)
    columns |= _weather_columns(weather, flights["origin"], _hour_of_year(flights["time_hour"]))
    table = pa.table(columns)
    return table.cast(pa.schema([field.with_nullable(False) for field in table.schema]))


def _integers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.int64)


def _positions(column: pa.ChunkedArray, names: pa.Array) -> pa.ChunkedArray:
    """Where each value stands in ``names``, int32; null where it does not."""
    return pc.call_function("index_in", [column], pc.SetLookupOptions(value_set=names))


def _hour_of_year(times: pa.ChunkedArray) -> np.ndarray:
    """Hours since the start of 2013 in UTC, int64."""
    seconds = times.cast(pa.timestamp("s", "UTC")).cast(pa.int64()).to_numpy()
    return seconds // 3600 - (_FIRST_DAY - date(1970, 1, 1)).days * 24


def _scheduled_departures(scheduled: pa.Table) -> np.ndarray:
    """For every flight, the number of flights scheduled from its airport in its hour."""
    airport = _positions(scheduled["origin"], pa.array(_AIRPORTS)).to_numpy()
    key = _hour_of_year(scheduled["time_hour"]) * len(_AIRPORTS) + airport
    return np.bincount(key)[key]


def _minutes_ahead(
    destinations: pa.ChunkedArray, day: np.ndarray, airports: pa.Table
) -> np.ndarray:
    """How many minutes the destination's clock is ahead of New York's on that day, int64."""
    # The source does not list these four; all keep Atlantic time the whole year.
    zone = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), (-4.0, False))
    for name, hours, rule in zip(
        *(airports[n].to_pylist() for n in ("faa", "tz", "dst")), strict=True
    ):
        zone.setdefault(name, (hours, rule == "A"))
    names = destinations.unique()
    place = _positions(destinations, names).to_numpy()
    hours, shifts = np.array([zone[name] for name in names.to_pylist()])[place].T
    summer = (day >= 69) & (day < 307)  # 10 March to 2 November 2013
    return ((hours + summer * shifts + 5 - summer) * 60).astype(np.int64)


def _plane_columns(
    tails: pa.ChunkedArray, planes: pa.Table
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """What the register knows of each aircraft, with fills and flags where it knows nothing."""
    row = _positions(tails, planes["tailnum"].combine_chunks())
    year = planes["year"].take(row)
    return {
        "manufacturer": planes["manufacturer"].take(row).fill_null(_UNKNOWN),
        "model": planes["model"].take(row).fill_null(_UNKNOWN),
        "plane_year": year.fill_null(_PLANE_YEAR_FILL).cast(pa.int32()),
        "seats": planes["seats"].take(row).fill_null(_SEATS_FILL).cast(pa.int32()),
        "plane_known": row.is_valid().cast(pa.int8()),
        "plane_year_known": year.is_valid().cast(pa.int8()),
    }


def _weather_columns(
    weather: pa.Table, origins: pa.ChunkedArray, hours: np.ndarray
) -> dict[str, pa.Array]:
    """The weather at each flight's origin in its scheduled hour.

    Args:
        weather: The source's hourly reports.
        origins: [n] airports.
        hours: int64[n], hours of the year in UTC.
    """
    shape = (len(_AIRPORTS), int(hours.max()) + 1)
    place = (
        _positions(weather["origin"], pa.array(_AIRPORTS)).to_numpy(),
        _hour_of_year(weather["time_hour"]),
    )

    def grid(name: str) -> np.ndarray:
        """[airports, hours] of one column, NaN where there is no report."""
        values = np.full(shape, np.nan)
        values[place] = weather[name].cast(pa.float64()).to_numpy()
        return values

    reports = {name: grid(name) for name in (*_WEATHER_DEFAULTS, "wind_gust")}
    reports["wind_speed"][reports["wind_speed"] > _FASTEST_WIND] = np.nan
    missing = np.isnan(reports["temp"]) | np.isnan(reports["wind_speed"])
    calm = ~missing & (np.isnan(reports["wind_dir"]) | (reports["wind_speed"] == 0))
    known = {n: _last_known(reports[n], default) for n, default in _WEATHER_DEFAULTS.items()}
    angle = np.deg2rad(known["wind_dir"])
    gust = np.where(np.isnan(reports["wind_gust"]), known["wind_speed"], reports["wind_gust"])
    known |= {
        "wind_sin": np.where(calm, 0, np.sin(angle)),
        "wind_cos": np.where(calm, 0, np.cos(angle)),
        "wind_gust": gust,
        "precip_6h": _over_hours(known["precip"], 6).sum(axis=0),
        "visib_6h": _over_hours(known["visib"], 6).min(axis=0),
        "region_precip": np.broadcast_to(_over_hours(known["precip"], 3).sum(0).max(0), shape),
        "region_visib": np.broadcast_to(_over_hours(known["visib"], 3).min(0).min(0), shape),
    }
    at = _positions(origins, pa.array(_AIRPORTS)).to_numpy(), hours
    columns = {name: pa.array(values[at].astype(np.float32)) for name, values in known.items()}
    columns["weather_missing"] = pa.array(missing[at].astype(np.int8))
    columns["weather_tags"] = _weather_tags(known).take(pa.array(np.ravel_multi_index(at, shape)))
    return columns


def _last_known(values: np.ndarray, default: float) -> np.ndarray:
    """[airports, hours] with every NaN replaced by the last value before it in its row."""
    position = np.where(np.isnan(values), 0, np.arange(values.shape[1]))
    filled = np.take_along_axis(values, np.maximum.accumulate(position, axis=1), axis=1)
    return np.where(np.isnan(filled), default, filled)


def _over_hours(values: np.ndarray, hours: int) -> np.ndarray:
    """[hours, airports, time]: the values now, an hour ago, … ; the first hour's before it."""
    now = np.arange(values.shape[1])
    return np.stack([values[:, np.maximum(now - back, 0)] for back in range(hours)])


def _weather_tags(known: dict[str, np.ndarray]) -> pa.Array:
    """list<string>[airports * hours]: what a forecaster would say in a few words."""
    precip, temp, visib = known["precip"], known["temp"], known["visib"]
    wind, gust = known["wind_speed"], known["wind_gust"]
    wet = precip > 0
    said = {
        "rain": wet & (temp > 34), "heavy_rain": (precip >= 0.1) & (temp > 34),
        "snow_or_ice": wet & (temp <= 34), "freezing": temp <= 32, "hot": temp >= 85,
        "muggy": known["dewp"] >= 68, "windy": wind >= 18, "gusts": gust >= 25,
        "gale": gust >= 38, "haze": (visib < 10) & (visib >= 3), "fog": visib < 3,
        "low_pressure": known["pressure"] < 1006, "wet_before": known["precip_6h"] > precip,
        "region_wet": known["region_precip"] >= 0.1, "region_fog": known["region_visib"] < 3,
    }  # fmt: skip
    said["fair"] = ~np.any(list(said.values()), axis=0)
    names = np.array(list(said))
    flags = np.stack([np.ravel(flag) for flag in said.values()], axis=1)
    offsets = np.concatenate([[0], np.cumsum(flags.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(names[np.nonzero(flags)[1]]))


def _calendar_tags(day_of_year: np.ndarray, hour: np.ndarray) -> pa.Array:
    """list<string>[n]: month, weekday and part of the day, and what is special about the day."""
    special = [_day_tags(_FIRST_DAY + timedelta(days=number)) for number in range(365)]
    tags = [[*day, _period(number)] for day in special for number in range(24)]
    key = (day_of_year - 1) * 24 + hour
    return pa.array(tags, pa.list_(pa.string())).take(pa.array(key))


def _day_tags(day: date) -> list[str]:
    tags = [f"month={day.month}", f"weekday={day.weekday()}"]
    if day.weekday() >= 5:
        tags.append("weekend")
    for name, holiday in _HOLIDAYS.items():
        away = (day - holiday).days
        if away == 0:
            tags.append(f"holiday={name}")
        elif -4 <= away <= 4:
            tags += [f"around={name}", "before_holiday" if away < 0 else "after_holiday"]
    return list(dict.fromkeys(tags))


def _period(hour: int) -> str:
    names = ("night", "early", "morning", "midday", "afternoon", "evening", "late_evening")
    return f"period={names[int(np.searchsorted((5, 7, 11, 14, 17, 20), hour, side='right'))]}"
