-- Add to the statistics of a queue, or of all queues.
-- KEYS  1 statistics (hash: m messages, f refused; of each slice of time that is kept, by its place: s<place> its number,
--       m<place>, f<place>)
-- ARGV  1 ms of a slice  2 slices that are kept  3 clock offset in ms  4 lifetime in ms  5 messages  6 refused
-- Returns 1. What is not a number counts from 0 again, and a key of another type anew.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
local slice = math.floor(now / ARGV[1])
local place = string.format('%.0f', slice % ARGV[2])
local number = string.format('%.0f', slice)
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
local kept = redis.call('HMGET', KEYS[1], 's' .. place, 'm', 'f', 'm' .. place, 'f' .. place)
if kept[1] ~= number then kept[4], kept[5] = 0, 0 end
local function sum(old, new) return string.format('%.0f', whole(old) + new) end
redis.call('HSET', KEYS[1], 's' .. place, number, 'm', sum(kept[2], ARGV[5]), 'f', sum(kept[3], ARGV[6]),
  'm' .. place, sum(kept[4], ARGV[5]), 'f' .. place, sum(kept[5], ARGV[6]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
