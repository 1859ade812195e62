-- Put one message at the end of a queue that is popped, if there is room.
-- KEYS  1 queue (list)  2 signal (list: one element when a reader should look)  and if it goes to a member of a group:
--       3 unread (hash: channel -> ms when such a message came, while no reader asks for messages of the queue)
-- ARGV  1 capacity  2 expiry in ms  3 clock offset in ms  4 frame (its channel after two bytes)  5 lifetime of 3 in ms
-- Returns how many expired messages made room, or -1 minus that number if the queue is full; nil if an earlier message
-- to this member has expired unread, and another expiry has passed, so that it is no member any more.
-- An entry is 8 bytes of time (ms, to the microsecond) and a frame; a shorter one is not ours, and must block nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000 + tonumber(ARGV[3])
local oldest = now - tonumber(ARGV[2])
local name
if KEYS[3] then
  name = string.sub(ARGV[4], 3, 2 + string.byte(ARGV[4], 2))
  if redis.call('TYPE', KEYS[3]).ok ~= 'hash' then redis.call('DEL', KEYS[3]) end
  local since = tonumber(redis.call('HGET', KEYS[3], name) or '')
  if since and since > 0 and since <= oldest - tonumber(ARGV[2]) then return false end
end
local expired = 0
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then
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
local signals = redis.pcall('LLEN', KEYS[2])
if signals ~= 1 then
  if signals ~= 0 then redis.call('DEL', KEYS[2]) end -- another program has written it
  redis.call('RPUSH', KEYS[2], '1')
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
if name and redis.call('HSETNX', KEYS[3], name, string.format('%.0f', now)) == 1 then
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
end
return expired
