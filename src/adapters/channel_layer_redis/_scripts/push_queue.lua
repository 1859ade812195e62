-- Put one message at the end of a queue that is popped, if there is room.
-- KEYS  1 queue (list)  2 call (list: one element when somebody should be told)
-- ARGV  1 capacity  2 expiry in ms  3 clock offset in ms  4 frame
-- Returns how many messages were too old and made room, or -1 less that number if it is full all the same.
-- An entry is 8 bytes of time (ms, to the microsecond) and a frame; what is shorter is not ours, and must stop nobody.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000 + tonumber(ARGV[3])
local expired = 0
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  local oldest = now - tonumber(ARGV[2])
  while true do
    local head = redis.call('LINDEX', KEYS[1], 0)
    if not head or (#head >= 8 and math.abs(struct.unpack('>d', head)) > oldest) then break end
    redis.call('LPOP', KEYS[1])
    expired = expired + 1
  end
  if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then return -1 - expired end
end
redis.call('RPUSH', KEYS[1], struct.pack('>d', now) .. ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('RPUSH', KEYS[2], '1') end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return expired
