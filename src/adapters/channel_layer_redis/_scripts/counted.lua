-- Return the statistics of a queue, or of all queues.
-- KEYS  1 statistics (see count.lua); of another type it counts as empty
-- ARGV  1 ms of a slice  2 slices that are kept  3 clock offset in ms
-- Returns {messages, refused, messages lately, refused lately, ms that "lately" covers}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
local slice = math.floor(now / ARGV[1])
local covered = now - (slice - ARGV[2] + 1) * ARGV[1]
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return {0, 0, 0, 0, covered} end
local lately, refused = 0, 0
for number = slice - ARGV[2] + 1, slice do
  local place = string.format('%.0f', number % ARGV[2])
  local kept = redis.call('HMGET', KEYS[1], 's' .. place, 'm' .. place, 'f' .. place)
  if kept[1] == string.format('%.0f', number) then
    lately, refused = lately + whole(kept[2]), refused + whole(kept[3])
  end
end
local all = redis.call('HMGET', KEYS[1], 'm', 'f')
return {whole(all[1]), whole(all[2]), lately, refused, covered}
