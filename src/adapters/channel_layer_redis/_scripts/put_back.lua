-- Return messages to the head of their queue, with their old stamps and outside any capacity.
-- The stamps are negated, so that the next pop of such a message checks whether it was flushed meanwhile.
-- KEYS  1 queue  2 signal
-- ARGV  1 expiry in ms  2 clock offset in ms  3... entries, oldest first
-- Returns how many had expired, and are gone.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2])
local lifetime = math.max(0, redis.call('PTTL', KEYS[1]))
local kept, expired = 0, 0
for place = #ARGV, 3, -1 do
  local left = math.ceil(math.abs(struct.unpack('>d', ARGV[place])) + tonumber(ARGV[1]) - now)
  left = math.min(left, tonumber(ARGV[1])) -- a stamp that is not ours may be infinite
  if left > 0 then
    redis.call('LPUSH', KEYS[1], ARGV[place])
    lifetime = math.max(lifetime, left)
    kept = kept + 1
  else
    expired = expired + 1
  end
end
if kept > 0 then
  redis.call('PEXPIRE', KEYS[1], lifetime)
  local signals = redis.pcall('LLEN', KEYS[2])
  if signals ~= 1 then
    if signals ~= 0 then redis.call('DEL', KEYS[2]) end -- another program has written it
    redis.call('RPUSH', KEYS[2], '1')
  end
  redis.call('PEXPIRE', KEYS[2], lifetime)
end
return expired
