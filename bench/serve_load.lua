-- For wrk, of bench/serve_load.py: each thread has one connection and is one camera. It sends image
-- after image, each with a key of its own, and again until it is answered. It notes the answers.

local folder, from, cameras = os.getenv("LOAD_FOLDER"), tonumber(os.getenv("LOAD_FROM")), 0

function setup(thread)
  thread:set("camera", cameras)
  cameras = cameras + 1
end

function init(args)
  images = {}
  for path in io.lines(folder .. "/images.txt") do
    local file = assert(io.open(path, "rb"))
    images[#images + 1] = file:read("*a")
    file:close()
  end
  sent = from  -- so that the keys of another turn are others
  answers = assert(io.open(folder .. "/answers-" .. camera .. ".txt", "w"))
  answers:setvbuf("line")
end

function request()
  local key = camera .. "-" .. sent
  local headers = {["Content-Type"] = "application/octet-stream", ["Idempotency-Key"] = key}
  local content = images[(camera + sent) % #images + 1] .. key  -- each image is new
  return wrk.format("POST", "/api/v1/predict?camera=" .. camera, headers, content)
end

function response(status, headers, body)
  if status == 200 then
    answers:write(sent, " ", body:match('"id":(%d+)'), " ", body:match('"score":([^,]+)'), "\n")
    sent = sent + 1
  else
    answers:write(sent, " refused ", status, "\n")
  end
end

function done(summary, latency, requests)
  local file = assert(io.open(folder .. "/latency.txt", "w"))  -- microseconds
  file:write(latency:percentile(50), " ", latency:percentile(99), "\n")
  file:close()
end
