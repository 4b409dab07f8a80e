--[[
amounts: read and write whole numbers without losing a digit.

Redis Lua numbers are doubles: exact for integers up to 2^53 - 1, but `..`, tostring() and cjson
print only fourteen digits. Every number that leaves a script passes through amounts.text(), or
through the "%d" of its string.format(), which on 64-bit servers is exact and faster than "%.0f".
]]
local amounts = {}

amounts.MAX = 9007199254740991 -- 2^53 - 1: also "never" where a time is meant

function amounts.text(number)
  if number == 0 then
    return "0"
  end
  return string.format("%d", number)
end
