-- Add to the statistics of a queue, or of all queues.
-- KEYS  1 statistics (hash: m messages, f refused; of each slice of time that is kept, by its place: s<place> its number,
--       m<place>, f<place>)
-- ARGV  1 ms of a slice  2 slices that are kept  3 clock offset in ms  4 lifetime in ms  5 messages  6 refused
-- Returns 1.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
local slice = math.floor(now / ARGV[1])
local place = string.format('%.0f', slice % ARGV[2])
local number = string.format('%.0f', slice)
if redis.call('HGET', KEYS[1], 's' .. place) ~= number then
  redis.call('HSET', KEYS[1], 's' .. place, number, 'm' .. place, 0, 'f' .. place, 0)
end
for field, count in pairs({m = ARGV[5], f = ARGV[6]}) do
  redis.call('HINCRBY', KEYS[1], field, count)
  redis.call('HINCRBY', KEYS[1], field .. place, count)
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
