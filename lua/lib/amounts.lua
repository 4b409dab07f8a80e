--[[
amounts: read and write whole numbers without losing a digit.

Redis Lua numbers are doubles: exact for integers up to 2^53 - 1, but `..`, tostring() and cjson
print only fourteen digits. Every number that leaves a script passes through amounts.text().
]]
local amounts = {}

amounts.MAX = 9007199254740991 -- 2^53 - 1: also "never" where a time is meant

-- An absent hash field reads as false and counts as zero.
function amounts.read(field)
  return tonumber(field or "0")
end

function amounts.text(number)
  if number == 0 then
    return "0"
  end
  return string.format("%.0f", number)
end
