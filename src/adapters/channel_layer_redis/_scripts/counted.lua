-- Return the statistics of a queue, or of all queues.
-- KEYS  1 statistics (see count.lua)
-- ARGV  1 ms of a slice  2 slices that are kept  3 clock offset in ms
-- Returns {messages, refused, messages lately, refused lately, ms that "lately" covers}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
local slice = math.floor(now / ARGV[1])
local lately, refused = 0, 0
for number = slice - ARGV[2] + 1, slice do
  local place = string.format('%.0f', number % ARGV[2])
  local kept = redis.call('HMGET', KEYS[1], 's' .. place, 'm' .. place, 'f' .. place)
  if kept[1] == string.format('%.0f', number) then
    lately, refused = lately + kept[2], refused + kept[3]
  end
end
local all = redis.call('HMGET', KEYS[1], 'm', 'f')
return {tonumber(all[1] or 0), tonumber(all[2] or 0), lately, refused, now - (slice - ARGV[2] + 1) * ARGV[1]}
