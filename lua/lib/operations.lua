--[[
operations: remember what an operation was answered, so that a repeat has no second effect.

Two hashes per quota, for even and odd periods of the horizon, by the server's clock. The current
one is written, both are read; each lives until the end of the period after its own, so every
operation is remembered for at least one horizon, and forgetting costs no script anything.

An operation that was cancelled before it happened is remembered too, by a tombstone: an answer whose
fingerprint is the word `cancelled`, which no arguments have.
]]
--- @include "lib/amounts"
local operations = {}

operations.CANCELLED = "cancelled" -- stands where other answers have a fingerprint

-- So long into a period, the key of the period before last may be there still, about to end.
local BOUNDARY_MS = 1000

-- The remembered answer's lines joined by newlines, or nil. What this very script did counts too.
function operations.recall(state, operation_id)
  for place = 1, #state.answers, 2 do
    if state.answers[place] == operation_id then
      return state.answers[place + 1]
    end
  end
  return redis.call("HGET", state.keys.ops0, operation_id) or redis.call("HGET", state.keys.ops1, operation_id) or nil
end

-- Whether a remembered answer is the tombstone of an operation that was cancelled.
function operations.is_tombstone(remembered)
  return string.sub(remembered, 1, #operations.CANCELLED + 1) == operations.CANCELLED .. "\n"
end

-- Whether an operation is remembered to have happened: one that was cancelled has not.
function operations.happened(state, operation_id)
  local remembered = operations.recall(state, operation_id)
  return remembered and not operations.is_tombstone(remembered)
end

-- Keep an answer (a list of lines); written by the script's commit.
function operations.remember(state, operation_id, answer)
  local count = #state.answers
  state.answers[count + 1], state.answers[count + 2] = operation_id, table.concat(answer, "\n")
end

function operations.save(state)
  if #state.answers > 0 then
    local period = math.floor(state.server_now / state.horizon)
    local key = period % 2 == 0 and state.keys.ops0 or state.keys.ops1
    redis.call("HSET", key, unpack(state.answers))
    local ends = amounts.text((period + 2) * state.horizon)
    if state.server_now % state.horizon < BOUNDARY_MS then
      redis.call("PEXPIREAT", key, ends)
    else
      redis.call("PEXPIREAT", key, ends, "NX")
    end
  end
end

-- Add a remembered answer's lines to a reply; or return an error, when the outbox is gone.
function operations.retell(state, reply, remembered)
  if redis.call("EXISTS", state.keys.outbox) == 0 then
    return redis.error_reply("FENCED the outbox is gone")
  end
  for line in string.gmatch(remembered .. "\n", "([^\n]*)\n") do
    reply[#reply + 1] = line
  end
  return reply
end

-- The reply to a repeat: the first answer, or an error if the arguments are others now, or if the
-- operation was cancelled before it came.
function operations.replay(state, operation_id, fingerprint, remembered)
  local reply = operations.retell(state, { "REPLAYED" }, remembered)
  if reply.err then
    return reply
  end
  if reply[2] ~= fingerprint then
    if reply[2] == operations.CANCELLED then
      return redis.error_reply("OPERATION_CANCELLED " .. operation_id)
    end
    return redis.error_reply("IDEMPOTENCY_CONFLICT " .. operation_id)
  end
  return reply
end
