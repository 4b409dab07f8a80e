--[[
limits: whether a quota has any, and what then looks after them.

A quota without limits pays for the field `limits` of its hash, and for nothing else: what counts and
decides is in lib/windows, which is loaded for the first quota that has some.
]]
--- @include "lib/amounts"
--- @lazy "lib/windows"
local limits = {}

local library

function limits.library()
  library = library or load_windows()
  return library
end

-- What looks after the limits of a quota, or nil where it has none.
function limits.of(state)
  if state.limits == "" then
    return nil
  end
  return limits.library()
end

-- Whether a quota has limits and nothing else: then it does not gate, and what is used of it is counted.
function limits.alone(state)
  return state.limits ~= "" and state.granted ~= "1" and state.limit == "0"
end

-- The error that says that the periods which the limits of a quota know are over, or nil.
function limits.over(state)
  local windows = limits.of(state)
  if not windows or not windows.are_over(state) then
    return nil
  end
  return redis.error_reply("PERIODS_OVER " .. amounts.text(windows.read(state).now) .. " " .. state.limits .. " "
    .. state.name)
end

-- The reply that refuses, if a limit of one of them lets through less than is asked, or the error that it
-- knows of no period now; or nil. `calls`, `opens`: whether this is a call, and opens a
-- hold, 0 or 1.
function limits.exceeded(states, calls, opens, spendable)
  local is_limited = false
  for _, state in ipairs(states) do
    if state.limits ~= "" then
      is_limited = true
      local refused = limits.over(state)
      if refused then
        return refused
      end
    end
  end
  return is_limited and limits.library().refusal(states, calls, opens, spendable) or nil
end
