-- Put one message into an inbox: into its owner's stream if it has one that lives, else into a queue that is popped.
-- KEYS  1 lease (hash: g generation, b serial, f flushed, n<channel> unread)  2 stream  3 queue  4 call
--       and if it goes to a member of a group: 5 unread (see push_queue.lua)
-- ARGV  1 capacity  2 expiry in ms  3 clock offset in ms  4 inbox capacity  5 frame (its channel after two bytes)
--       6 lifetime of 5 in ms
-- Returns how many messages were too old and made room, or -1 less that number if it is full all the same; nil if an
-- earlier message to this member has expired unread, so that it is no member any more.
-- An entry is 8 bytes of time (ms, to the microsecond) and a frame; what is shorter is not ours, and must stop nobody.
local name = string.sub(ARGV[5], 3, 2 + string.byte(ARGV[5], 2))
if redis.call('HEXISTS', KEYS[1], 'g') == 1 then
  local place = 'n' .. name
  if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[4]) then return -1 end -- first: an error here takes no place
  if redis.call('HINCRBY', KEYS[1], place, 1) > tonumber(ARGV[1]) then
    if redis.call('HINCRBY', KEYS[1], place, -1) <= 0 then redis.call('HDEL', KEYS[1], place) end
    return -1
  end
  if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', ARGV[3], ARGV[5]) then
    redis.call('XADD', KEYS[2], '*', ARGV[3], ARGV[5])
    redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
  end
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000 + tonumber(ARGV[3])
local oldest = now - tonumber(ARGV[2])
if KEYS[5] then
  local since = redis.call('HGET', KEYS[5], name)
  if since and tonumber(since) <= oldest then return false end
end
local expired = 0
if redis.call('LLEN', KEYS[3]) >= tonumber(ARGV[1]) then
  while true do
    local head = redis.call('LINDEX', KEYS[3], 0)
    if not head or (#head >= 8 and math.abs(struct.unpack('>d', head)) > oldest) then break end
    redis.call('LPOP', KEYS[3])
    expired = expired + 1
  end
  if redis.call('LLEN', KEYS[3]) >= tonumber(ARGV[1]) then return -1 - expired end
end
redis.call('RPUSH', KEYS[3], struct.pack('>d', now) .. ARGV[5])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('RPUSH', KEYS[4], '1') end
redis.call('PEXPIRE', KEYS[4], ARGV[2])
if KEYS[5] and redis.call('HSETNX', KEYS[5], name, string.format('%.0f', now)) == 1 then
  redis.call('PEXPIRE', KEYS[5], ARGV[6])
end
return expired
