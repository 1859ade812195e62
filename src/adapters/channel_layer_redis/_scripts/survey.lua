-- Return how many messages wait in a queue, and since when.
-- KEYS  1 queue  and for an inbox: 2 lease  3 stream
-- ARGV  1 expiry in ms  2 clock offset in ms  3 what their frames begin with: one byte, and a channel or nothing
-- Returns {how many, ms that the oldest one here has waited, or nil}. In an inbox with an owner those count that are
-- unread, wherever they are.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000 + tonumber(ARGV[2])
local count, since = 0, nil
if KEYS[2] and redis.call('HEXISTS', KEYS[2], 'g') == 1 then
  if #ARGV[3] > 1 then
    count = whole(redis.call('HGET', KEYS[2], 'n' .. string.sub(ARGV[3], 3)))
  else
    local fields = redis.call('HGETALL', KEYS[2])
    for place = 1, #fields, 2 do
      if string.sub(fields[place], 1, 1) == 'n' then count = count + whole(fields[place + 1]) end
    end
  end
  if count > 0 then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[3], '-', '+')) do
      if #entry[2] == 2 and string.sub(entry[2][2], 1, #ARGV[3]) == ARGV[3] then
        since = string.match(entry[1], '^%d+') + (tonumber(entry[2][1]) or 0)
        break
      end
    end
  end
else
  local oldest = now - tonumber(ARGV[1])
  for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    local stamp = #entry >= 8 and math.abs(struct.unpack('>d', entry)) or 0
    if stamp > oldest and string.sub(entry, 9, 8 + #ARGV[3]) == ARGV[3] then
      count = count + 1
      if not since or stamp < since then since = stamp end
    end
  end
end
return {whole(count), since and math.min(whole(now - since), tonumber(ARGV[1])) or false}
