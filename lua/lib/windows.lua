--[[
windows: how much the limits of a quota have let through, and how much they let through yet.

The quota's field `limits` tells them, see quota_engine/limits.py. Beside it:

  w:at             the latest instant that anything counted at: no later count is earlier than it,
                   whatever the clocks do, so a window only goes forward
  w:<limit>        from place count: what counted later than `from` is known; `count` is what counts in the
                   newest step or period, which begins at `place`; then of a sliding window the oldest
                   step that is kept and the sum of all, of a calendar one when the period ends (0:
                   nobody knows)
  w:<limit>:<step> what counts in an older step, if anything

So a call reads one field for each limit and writes it, and forgets a step when it goes on to a new one.
What a hold counted is corrected in the step or period where it counts, as long as that is known.
]]
--- @include "lib/amounts"
local windows = {}

local SECOND = 1000
local HOUR = 3600 * SECOND
local LENGTHS = {
  second = SECOND, minute = 60 * SECOND, hour = HOUR, day = 24 * HOUR, week = 168 * HOUR, month = 720 * HOUR,
}
local STEPS = {
  second = SECOND / 10, minute = SECOND, hour = 60 * SECOND, day = HOUR / 4, week = 2 * HOUR, month = 6 * HOUR,
}
local MARKED = { day = true, week = true, month = true }
local WORDS = "^(%a+),(%a*),(%a*),([^,]*),(%d+),(%d+),(%d+),(%d+),([%d:]*)$"

-- The limit that its nine words tell.
function windows.parse(text)
  local of, per, window, zone, amount, raised_to, raised_until, since, marks = string.match(text, WORDS)
  return {
    of = of, per = per, window = window, zone = zone, amount = amount + 0, raised_to = raised_to + 0,
    raised_until = raised_until + 0, since = since + 0, marks = marks, length = LENGTHS[per],
    step = window == "sliding" and STEPS[per], is_marked = window == "calendar" and MARKED[per],
    field = "w:" .. of .. ":" .. per .. ":" .. window, steps = {}, changed = {},
  }
end

function windows.text(limit)
  return table.concat({
    limit.of, limit.per, limit.window, limit.zone, amounts.text(limit.amount), amounts.text(limit.raised_to),
    amounts.text(limit.raised_until), amounts.text(limit.since), limit.marks,
  }, ",")
end

local function restore(limit, head)
  local numbers = {}
  for word in string.gmatch(head or "", "%-?%d+") do
    numbers[#numbers + 1] = word + 0
  end
  limit.from, limit.place, limit.count = numbers[1] or limit.since, numbers[2] or 0, numbers[3] or 0
  if limit.step then
    limit.first, limit.sum = numbers[4] or 0, numbers[5] or 0
  else
    limit.ends, limit.sum = numbers[4] or 0, limit.count
  end
end

-- Where the step or period begins that an instant counts in, and where the next does. The last period
-- that is known goes on (its end is nil); what was before the first is over (nil).
function windows.place_of(limit, at)
  if limit.step then
    local place = at - at % limit.step
    return place, place + limit.step
  elseif not limit.is_marked then
    local place = at - (at - (tonumber(limit.marks) or 0)) % limit.length
    return place, place + limit.length
  end
  local place
  for word in string.gmatch(limit.marks, "%d+") do
    local mark = word + 0
    if mark > at then
      return place, mark
    end
    place = mark
  end
  return place, nil
end

-- Note where now counts, and until when.
local function look_at(limit, now)
  if limit.ends and limit.place <= now and now < limit.ends then
    limit.here, limit.next = limit.place, limit.ends
  else
    limit.here, limit.next = windows.place_of(limit, now)
  end
end

-- The quota's limits with what counts in them, read once.
function windows.read(state)
  local known = state.windows
  if known then
    return known
  end
  known = { limits = {} }
  local fields = { "w:at" }
  for text in string.gmatch(state.limits, "[^;]+") do
    local limit = windows.parse(text)
    known.limits[#known.limits + 1] = limit
    fields[#fields + 1] = limit.field
  end
  local stored = redis.call("HMGET", state.keys.quota, unpack(fields))
  known.at = (stored[1] or 0) + 0
  known.now = math.max(state.now, known.at)
  for place, limit in ipairs(known.limits) do
    restore(limit, stored[place + 1])
    if limit.of ~= "holds" then
      look_at(limit, known.now)
    end
  end
  state.windows = known
  return known
end

-- Whether the periods that a limit knows are over.
function windows.are_over(state)
  for _, limit in ipairs(windows.read(state).limits) do
    if limit.is_marked and not limit.next then
      return true
    end
  end
  return false
end

-- Read the steps from `first` to `last` that are not known yet, in one command.
local function read_steps(state, limit, first, last)
  local names, starts = {}, {}
  for start = first, last, limit.step do
    if limit.steps[start] == nil then
      names[#names + 1] = limit.field .. ":" .. amounts.text(start)
      starts[#starts + 1] = start
    end
  end
  if #names > 0 then
    for place, count in ipairs(redis.call("HMGET", state.keys.quota, unpack(names))) do
      limit.steps[starts[place]] = (count or 0) + 0
    end
  end
end

local function set_step(limit, start, count)
  limit.steps[start], limit.changed[start] = count, true
end

-- Let a window go forward to now.
local function go_on(state, limit)
  local place = limit.here
  if not place or place <= limit.place then
    return
  end
  if not limit.step then
    limit.sum, limit.ends = 0, limit.next or 0
  elseif limit.place == 0 then
    limit.first = place
  else
    set_step(limit, limit.place, limit.count)
    local floor = place - limit.length
    local last = math.min(floor - limit.step, limit.place)
    read_steps(state, limit, limit.first, last)
    for start = limit.first, last, limit.step do
      limit.sum = limit.sum - limit.steps[start]
      set_step(limit, start, 0)
    end
    limit.first = math.max(limit.first, floor)
  end
  limit.place, limit.count = place, 0
end

-- Let units and calls count now. Returns the instant at which they do.
function windows.add(state, units, calls)
  local known = windows.read(state)
  for _, limit in ipairs(known.limits) do
    local amount = limit.of == "units" and units or limit.of == "calls" and calls or 0
    if amount > 0 then
      go_on(state, limit)
      limit.count, limit.sum, limit.is_changed = limit.count + amount, limit.sum + amount, true
    end
  end
  known.at, known.is_later = known.now, true
  return known.now
end

local function correct(state, limit, at, units)
  if limit.step and at < limit.place then
    local place = at - at % limit.step
    if place < limit.first then
      return
    end
    read_steps(state, limit, place, place)
    set_step(limit, place, limit.steps[place] + units)
  elseif at >= limit.place and limit.place > 0 and (limit.step or limit.ends == 0 or at < limit.ends) then
    limit.count = limit.count + units
  else
    return
  end
  limit.sum, limit.is_changed = limit.sum + units, true
end

-- Let so many units more, or less, count where a hold counts: at `at`, nil where it counts in nothing.
function windows.correct(state, at, units)
  if not at or units == 0 then
    return
  end
  for _, limit in ipairs(windows.read(state).limits) do
    if limit.of == "units" and at > limit.from then
      correct(state, limit, at, units)
    end
  end
end

local function cap_at(limit, at)
  return at < limit.raised_until and limit.raised_to or limit.amount
end

-- How many holds of the quota are open.
local function open_holds(state)
  local open = redis.call("HLEN", state.keys.holds)
  for _, record in pairs(state.holds_changed) do
    open = open - (record and 0 or 1)
  end
  return open
end

-- How many a limit lets through now, how many of them it has let through, and when that begins anew.
function windows.standing(state, limit)
  local known = windows.read(state)
  if limit.of == "holds" then
    return cap_at(limit, known.now), open_holds(state), nil
  end
  go_on(state, limit)
  return cap_at(limit, known.now), limit.sum, not limit.step and limit.next or nil
end

-- The instant at which a limit would let so many through if nothing else happened; nil: never.
local function relief_of(state, limit, required)
  if not limit.step then
    return limit.next and required <= cap_at(limit, limit.next) and limit.next or nil
  end
  read_steps(state, limit, limit.first, limit.place - limit.step)
  local used = limit.sum
  for start = limit.first, limit.place, limit.step do
    used = used - (start == limit.place and limit.count or limit.steps[start])
    local at = start + limit.length + limit.step
    if used + required <= cap_at(limit, at) then
      return at
    end
  end
  return nil
end

-- When a limit that is in the way of so many would let them through; nil: it is not, or nobody knows.
function windows.passes_at(state, limit, required)
  local cap, used = windows.standing(state, limit)
  if limit.of == "holds" or used + required <= cap then
    return nil
  end
  return relief_of(state, limit, required)
end

-- What is asked of a limit: units, calls (0 or 1), holds that are to be opened (0 or 1).
local function required_of(state, limit, calls, opens)
  if limit.of == "units" then
    return state.asked > 0 and state.asked + (state.kept or 0) or 0
  end
  return limit.of == "calls" and calls or opens
end

-- Look at the limits of one quota. Notes how many units it could let through; returns what it refuses by:
-- of several limits the one that refuses longest, of which that is known.
local function look(state, calls, opens, worst)
  state.headroom = amounts.MAX
  for _, limit in ipairs(windows.read(state).limits) do
    local required = required_of(state, limit, calls, opens)
    local cap, used = windows.standing(state, limit)
    local left = math.max(cap - used, 0)
    if limit.of == "units" then
      state.headroom = math.min(state.headroom, left)
    elseif required > left then
      state.headroom = 0
    end
    if required > left then
      local relief = limit.of ~= "holds" and (relief_of(state, limit, required) or amounts.MAX) or 0
      if not worst or relief > worst.relief then
        worst = { state = state, limit = limit, cap = cap, required = required, left = left, relief = relief }
      end
    end
  end
  return worst
end

-- The reply that refuses, if a limit lets through less than is asked: which it is, what is asked of it, what
-- is left, how many milliseconds to wait (empty: never, or nobody knows); then of each quota that may refuse its
-- name, what is asked of it, and what it could have admitted. Who looks at a window lets it go on, and it must
-- not where nothing is to count: what is written in that quota (a hold has expired) would keep it there.
function windows.refusal(states, calls, opens, spendable)
  local worst
  for _, state in ipairs(states) do
    state.headroom = amounts.MAX
    state.is_asked = state.limits ~= "" and state.asked + calls > 0
    if state.is_asked and state.is_in_shadow then
      local would_refuse = look(state, calls, opens)
      state.shadowed = state.shadowed or would_refuse and "limited" or nil
    elseif state.is_asked then
      worst = look(state, calls, opens, worst)
    end
  end
  if not worst then
    return nil
  end
  local text, limit, relief = amounts.text, worst.limit, worst.relief
  local reply = {
    "EXCEEDED", worst.state.name, limit.of, limit.per, limit.window, limit.zone, text(worst.cap),
    text(worst.required), text(worst.left),
    relief > 0 and relief < amounts.MAX and text(relief - worst.state.now) or "",
  }
  for _, state in ipairs(states) do
    if not state.is_in_shadow then
      if state.limits ~= "" and not state.is_asked then
        look(state, calls, opens)
      end
      local count, kept = #reply, state.kept or 0
      local available = state.is_counted and amounts.MAX or math.max(spendable(state), 0) + kept
      reply[count + 1], reply[count + 2] = state.name, text(state.asked + kept)
      reply[count + 3] = text(math.min(available, state.headroom))
    end
  end
  return reply
end

-- Forget what counts in a limit that is no more.
function windows.drop(state, limit)
  local gone = windows.read(state).gone or {}
  state.windows.gone = gone
  gone[#gone + 1] = limit.field
  if limit.step and limit.place > 0 then
    for start = limit.first, limit.place, limit.step do
      gone[#gone + 1] = limit.field .. ":" .. amounts.text(start)
    end
  end
end

-- What is to be written: fields and values, and the fields that go.
function windows.changes(state)
  local known, text = windows.read(state), amounts.text
  local fields, gone = {}, known.gone or {}
  if known.is_later then
    fields = { "w:at", text(known.at) }
  end
  for _, limit in ipairs(known.limits) do
    if limit.is_changed then
      local head = text(limit.from) .. " " .. text(limit.place) .. " " .. text(limit.count) .. " "
      head = head .. (limit.step and text(limit.first) .. " " .. text(limit.sum) or text(limit.ends))
      fields[#fields + 1], fields[#fields + 2] = limit.field, head
      for start in pairs(limit.changed) do
        local name, count = limit.field .. ":" .. text(start), limit.steps[start]
        if count == 0 then
          gone[#gone + 1] = name
        else
          fields[#fields + 1], fields[#fields + 2] = name, text(count)
        end
      end
    end
  end
  return fields, gone
end
