-- Put one message into an inbox: into its owner's stream if it has one that lives, else into a queue that is popped.
-- KEYS  1 lease (hash: g generation, b serial, f flushed, n<channel> unread)  2 stream  3 queue  4 call
-- ARGV  1 capacity  2 expiry in ms  3 clock offset in ms  4 frame  5 channel  6 inbox capacity
-- Returns {1 accepted or 0 full, messages that were too old and made room}.
-- An entry is 8 bytes of time (ms, to the microsecond) and a frame; what is shorter is not ours, and must stop nobody.
if redis.call('HEXISTS', KEYS[1], 'g') == 1 then
  local place = 'n' .. ARGV[5]
  if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[6]) then return {0, 0} end -- first: an error here takes no place
  if redis.call('HINCRBY', KEYS[1], place, 1) > tonumber(ARGV[1]) then
    if redis.call('HINCRBY', KEYS[1], place, -1) <= 0 then redis.call('HDEL', KEYS[1], place) end
    return {0, 0}
  end
  if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', ARGV[3], ARGV[4]) then
    redis.call('XADD', KEYS[2], '*', ARGV[3], ARGV[4])
    redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
  end
  return {1, 0}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000 + tonumber(ARGV[3])
local expired = 0
if redis.call('LLEN', KEYS[3]) >= tonumber(ARGV[1]) then
  local oldest = now - tonumber(ARGV[2])
  while true do
    local head = redis.call('LINDEX', KEYS[3], 0)
    if not head or (#head >= 8 and math.abs(struct.unpack('>d', head)) > oldest) then break end
    redis.call('LPOP', KEYS[3])
    expired = expired + 1
  end
  if redis.call('LLEN', KEYS[3]) >= tonumber(ARGV[1]) then return {0, expired} end
end
redis.call('RPUSH', KEYS[3], struct.pack('>d', now) .. ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('RPUSH', KEYS[4], '1') end
redis.call('PEXPIRE', KEYS[4], ARGV[2])
return {1, expired}
