-- Count the messages that wait here for one channel.
-- KEYS  1 queue  and for an inbox: 2 stream
-- ARGV  1 expiry in ms  2 clock offset in ms  3 the bytes that a frame to this channel begins with
local time = redis.call('TIME')
local oldest = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2]) - tonumber(ARGV[1])
local count = 0
for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  local stamp = #entry >= 8 and math.abs(struct.unpack('>d', entry)) or 0
  if stamp > oldest and string.sub(entry, 9, 8 + #ARGV[3]) == ARGV[3] then count = count + 1 end
end
if KEYS[2] then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
    if string.sub(entry[2][2], 1, #ARGV[3]) == ARGV[3] then count = count + 1 end
  end
end
return count
